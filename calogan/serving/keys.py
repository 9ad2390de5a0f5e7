"""Keys of the endpoint: one from the environment, or several from a file, each with limits of its own."""

import hashlib
import hmac
import logging
import os
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from calogan.errors import ConfigError, problems

KEY_VARIABLE = "CALOGAN_API_KEY"
KEYS_FILE_VARIABLE = "CALOGAN_API_KEYS_FILE"
_RELOAD_S = 1.0  # the file is looked at this often at most
_log = logging.getLogger(__name__)


def read_key() -> str:
    """Return the key without a trailing newline, which secret files often add; empty if it is not set."""
    return os.environ.get(KEY_VARIABLE, "").strip()


def sent_keys(headers: Mapping[str, str]) -> list[bytes]:
    """Keys that a client sent, as X-API-Key or in Authorization."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    # Headers arrive decoded as latin-1; this restores the original bytes.
    sent = (headers.get("x-api-key"), bearer.strip() if scheme.lower() == "bearer" else "")
    return [key.encode("latin-1") for key in sent if key]


class KeyEntry(BaseModel):
    """One key of the file; the table's name is the name of its client.

    Attributes:
        key: what the client sends.
        max_showers: largest number of showers in one request; that of the endpoint if not given.
        showers_per_s: showers the client may ask each replica for, on average; without limit if not given.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    key: str = Field(min_length=16)
    max_showers: int | None = Field(None, ge=1)
    showers_per_s: float | None = Field(None, gt=0)


@dataclass
class KeyHolder:
    """A client whose key is known.

    Attributes:
        name: its name in logs and metrics.
        max_showers: largest number of showers in one request; None for that of the endpoint.
        showers_per_s: showers a second it may ask for, on average; None for no limit.
    """

    name: str
    max_showers: int | None = None
    showers_per_s: float | None = None
    _owed: float = field(default=0.0, init=False)
    _since: float = field(default=0.0, init=False)

    def wait_s(self, showers: int, now: float) -> float:
        """Count a request against the rate; returns 0, or the seconds after which it may be sent again.

        A client may ask for any number at once and waits afterwards, so that a large request is not refused for ever.
        """
        if self.showers_per_s is None:
            return 0.0
        self._owed = max(0.0, self._owed - (now - self._since) * self.showers_per_s)
        self._since = now
        if self._owed > 0:
            return self._owed / self.showers_per_s
        self._owed = float(showers)
        return 0.0


class KeyRing:
    """All keys of an endpoint. Those of a file follow its changes without a restart."""

    def __init__(
        self, *, key: str = "", file: str | os.PathLike[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the keys.

        Args:
            key: a key without limits, named `default`; empty for none.
            file: TOML file with a table for each client, see `KeyEntry`.
            clock: seconds that only grow.

        Raises:
            ConfigError: the file cannot be read or is wrong.
        """
        self._fixed = {_digest(key): KeyHolder("default")} if key else {}
        self._file = Path(file) if file else None
        self._clock = clock
        self._holders = dict(self._fixed)
        self._state: tuple[int, ...] = ()
        self._looked = clock()
        if self._file:
            self._state = _state(self._file)
            self._holders |= _holders(_read(self._file), {})

    def __bool__(self) -> bool:
        return bool(self._holders)

    def find(self, key: bytes) -> KeyHolder | None:
        """Find the client of a key, in a time that does not depend on the key."""
        self._follow_file()
        wanted, found = _digest(key), None
        for digest, holder in self._holders.items():
            if hmac.compare_digest(digest, wanted):
                found = holder
        return found

    def wait_s(self, holder: KeyHolder, showers: int) -> float:
        """Count a request against the rate of a client, see `KeyHolder.wait_s`."""
        return holder.wait_s(showers, self._clock())

    def _follow_file(self) -> None:
        now = self._clock()
        if self._file is None or now - self._looked < _RELOAD_S:
            return
        self._looked = now
        try:
            state = _state(self._file)
            if state == self._state:
                return
            self._state = state
            self._holders = self._fixed | _holders(_read(self._file), self._holders)
            _log.info("%s: read %d keys", self._file, len(self._holders) - len(self._fixed))
        except ConfigError as error:
            _log.error("%s; the keys read before stay valid", error)


def read_keys() -> KeyRing:
    """Read the keys that the environment names, see `KEY_VARIABLE` and `KEYS_FILE_VARIABLE`.

    Raises:
        ConfigError: the file of keys cannot be read or is wrong.
    """
    return KeyRing(key=read_key(), file=os.environ.get(KEYS_FILE_VARIABLE) or None)


def _digest(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def _state(path: Path) -> tuple[int, ...]:
    """Return what changes with the content of a file; a Secret of Kubernetes is replaced by moving a link."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected the keys of the endpoint") from error
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def _read(path: Path) -> dict[str, KeyEntry]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(dict[str, KeyEntry]).validate_python(tables)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected the keys of the endpoint") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {problems(error)}; expected tables such as [analysis] with a key") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not TOML ({error}); expected tables such as [analysis] with a key") from None


def _holders(entries: Mapping[str, KeyEntry], before: Mapping[bytes, KeyHolder]) -> dict[bytes, KeyHolder]:
    """Holders of the keys of a file; one that was there before still owes what it owed."""
    holders: dict[bytes, KeyHolder] = {}
    for name, entry in entries.items():
        digest = _digest(entry.key)
        if digest in holders:
            raise ConfigError(f"the key of {name} is also that of {holders[digest].name}; give each client its own")
        holder = before[digest] if digest in before else KeyHolder(name)
        holder.name, holder.max_showers, holder.showers_per_s = name, entry.max_showers, entry.showers_per_s
        holders[digest] = holder
    return holders
