from pathlib import Path

import pytest

from calogan.cli.comparisons import float32_files, named_files
from calogan.errors import RequestError


def test_candidates_have_the_names_given_or_those_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "a=b.h5").touch()
    arguments = ("int8=x.h5", "x.h5", "runs/showers-*.h5", "others/*.h5", "*.h5", "p/", str(tmp_path / "a=b.h5"))
    assert named_files(arguments) == {
        "int8": "x.h5",
        "x": "x.h5",
        "showers": "runs/showers-*.h5",
        "others": "others/*.h5",
        "candidate": "*.h5",
        "p": "p/",
        "a=b": str(tmp_path / "a=b.h5"),
    }
    with pytest.raises(RequestError, match="two candidates are called 'a'; give names: --candidate NAME=FILE"):
        named_files(["x/a.h5", "y/a.h5"])


def test_float32_showers_are_of_the_candidate_named_or_of_all() -> None:
    names = ("int8", "float16")
    assert float32_files([], names) == {}
    assert float32_files(["f.h5"], names) == {"int8": "f.h5", "float16": "f.h5"}
    assert float32_files(["int8=f.h5", "float16=g/"], names) == {"int8": "f.h5", "float16": "g/"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["int4=f.h5"], "no candidate is called 'int4'; there are int8, float16"),
        (["int8=f.h5", "g.h5"], "int8 has f.h5 already"),
        (["f.h5", "g.h5"], "int8 has f.h5 already; .* as a folder or a pattern"),
    ],
)
def test_float32_showers_that_fit_no_candidate_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        float32_files(arguments, ("int8", "float16"))
