from pathlib import Path

import pytest

from calogan.errors import ConfigError
from calogan.serving.keys import KeyRing, read_keys

FIRST, SECOND = "a" * 16, "b" * 16


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(f'[analysis]\nkey = "{FIRST}"\nmax_showers = 10\nshowers_per_s = 5\n', encoding="utf-8")
    return path


def test_a_key_from_the_environment_has_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALOGAN_API_KEY", "short\n")
    monkeypatch.delenv("CALOGAN_API_KEYS_FILE", raising=False)
    keys = read_keys()
    holder = keys.find(b"short")
    assert holder is not None
    assert (holder.name, holder.max_showers, holder.showers_per_s) == ("default", None, None)
    assert keys.find(b"shorter") is None
    assert keys.find(b"") is None


def test_without_any_key_the_ring_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALOGAN_API_KEY", raising=False)
    monkeypatch.delenv("CALOGAN_API_KEYS_FILE", raising=False)
    assert not read_keys()


def test_keys_of_a_file_are_followed_without_a_restart(file: Path) -> None:
    clock = Clock()
    keys = KeyRing(key="own", file=file, clock=clock)
    holder = keys.find(FIRST.encode())
    assert holder is not None
    assert (holder.name, holder.max_showers) == ("analysis", 10)
    file.write_text(f'[other]\nkey = "{SECOND}"\n', encoding="utf-8")
    assert keys.find(SECOND.encode()) is None  # the file is looked at once a second
    clock.now += 1
    assert keys.find(SECOND.encode()) is not None
    assert keys.find(FIRST.encode()) is None
    assert keys.find(b"own") is not None


@pytest.mark.parametrize("content", ["[analysis", "[analysis]\n", None])
def test_a_file_that_became_wrong_leaves_the_keys_valid(
    file: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    keys = KeyRing(file=file, clock=clock)
    if content is None:
        file.unlink()
    else:
        file.write_text(content, encoding="utf-8")
    clock.now += 2
    assert keys.find(FIRST.encode()) is not None
    assert "the keys read before stay valid" in caplog.text
    assert FIRST not in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("key = 3", "expected tables"),
        ("[a]\nkey = 'short'", r"a\.key: .*at least 16"),
        (f"[a]\nkey = '{FIRST}'\ncolour = 1", r"a\.colour"),
        (f"[a]\nkey = '{FIRST}'\nmax_showers = 0", r"a\.max_showers"),
        (f"[a]\nkey = '{FIRST}'\nshowers_per_s = -1", r"a\.showers_per_s"),
        (f"[a]\nkey = '{FIRST}'\n[b]\nkey = '{FIRST}'", "the key of b is also that of a"),
        ("[", "is not TOML"),
        ("\x00", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_at_the_start(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as raised:
        KeyRing(file=path)
    assert FIRST not in str(raised.value)


def test_a_missing_file_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        KeyRing(file=tmp_path / "none.toml")


def test_a_rate_is_kept_on_average(file: Path) -> None:
    clock = Clock()
    keys = KeyRing(file=file, clock=clock)
    holder = keys.find(FIRST.encode())
    assert holder is not None
    assert keys.wait_s(holder, 10) == 0
    assert keys.wait_s(holder, 1) == pytest.approx(2)
    clock.now += 1
    assert keys.wait_s(holder, 1) == pytest.approx(1)
    clock.now += 1
    assert keys.wait_s(holder, 10) == 0
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    clock.now += 1
    assert keys.find(FIRST.encode()) is holder  # a new file does not forgive what is owed
    assert keys.wait_s(holder, 1) == pytest.approx(1)
