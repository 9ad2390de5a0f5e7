import contextlib
import io
import json
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calogan.errors import EventsError
from calogan.events import Events, packaged_sample, read_events
from calogan.serving.encodings import ENCODINGS, HDF5, JSON, NPZ, Encoding, NotAcceptableError, choose, decode

HEADER = {"seed": "7", "precision": "int8"}


@pytest.fixture(scope="module")
def events() -> Events:
    return read_events(packaged_sample())[:3]


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=lambda encoding: encoding.suffix)
def test_bytes_give_the_same_showers_back_bit_for_bit(encoding: Encoding, events: Events) -> None:
    back = decode(encoding.encode(events, HEADER), encoding.media_type + "; charset=utf-8")
    assert back.showers.dtype == back.energy.dtype == np.float32
    np.testing.assert_array_equal(back.showers, events.showers)
    np.testing.assert_array_equal(back.energy, events.energy)


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=lambda encoding: encoding.suffix)
def test_equal_showers_give_equal_bytes(encoding: Encoding, events: Events) -> None:
    assert encoding.encode(events, HEADER) == encoding.encode(Events(events.showers.copy(), events.energy), HEADER)
    assert encoding.encode(events, HEADER) != encoding.encode(events, HEADER | {"seed": "8"})


def test_npz_carries_no_time_of_the_day(events: Events) -> None:
    with zipfile.ZipFile(io.BytesIO(NPZ.encode(events, HEADER))) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_hdf5_is_the_clic_layout_with_the_header_as_attributes(events: Events) -> None:
    with h5py.File(io.BytesIO(HDF5.encode(events, HEADER)), "r") as file:
        assert file["ECAL"].shape == (3, 25, 25, 25)
        np.testing.assert_array_equal(file["target"][:, 1], events.energy)
        assert {name: file.attrs[name] for name in HEADER} == HEADER


def test_npz_and_json_carry_the_header(events: Events) -> None:
    with np.load(io.BytesIO(NPZ.encode(events, HEADER))) as archive:
        assert json.loads(str(archive["header"])) == HEADER
    assert json.loads(JSON.encode(events, HEADER))["header"] == HEADER


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, HDF5),
        ("", HDF5),
        ("*/*", HDF5),
        ("application/*", HDF5),
        ("application/json", JSON),
        ("Application/JSON; charset=utf-8", JSON),
        ("application/x-npz, application/json", NPZ),
        ("application/json;q=0.4, application/x-npz;q=0.5", NPZ),
        ("application/json;q=0.9, */*;q=0.8", JSON),
        ("application/*;q=0.2, application/json;q=0.1", HDF5),
        ("*/*, application/x-hdf5;q=0", NPZ),
        ("*/*;q=0.1, application/x-hdf5;q=0, application/x-npz;q=0", JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HDF5),
        ("application/json;q=high, application/x-npz;q=0.1", NPZ),
    ],
)
def test_the_encoding_a_client_likes_best_is_chosen(accept: str | None, expected: Encoding) -> None:
    assert choose(accept) is expected


@pytest.mark.parametrize(
    "accept", ["text/html", "application/x-hdf5;q=0", "*/*;q=0.000", "json", "application/json;q=2"]
)
def test_when_nothing_fits_the_error_lists_what_is_offered(accept: str) -> None:
    with pytest.raises(NotAcceptableError, match="application/x-hdf5, application/x-npz, application/json") as raised:
        choose(accept)
    assert raised.value.http_status == 406
    assert accept in str(raised.value)


@given(st.text(alphabet=st.characters(codec="latin-1"), max_size=60))
def test_no_accept_header_breaks_the_choice(accept: str) -> None:
    with contextlib.suppress(NotAcceptableError):
        assert choose(accept) in ENCODINGS.values()


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=lambda encoding: encoding.suffix)
@pytest.mark.parametrize("damage", ["empty", "half", "html", "zeros", "flipped"])
def test_damaged_bytes_are_an_error_of_ours(encoding: Encoding, damage: str, events: Events) -> None:
    whole = encoding.encode(events, HEADER)
    middle = len(whole) // 2
    content = {
        "empty": b"",
        "half": whole[:middle],
        "html": b"<html>sign in first</html>",
        "zeros": bytes(1000),
        "flipped": whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 64]) + whole[middle + 64 :],
    }[damage]
    with pytest.raises(EventsError, match="damaged or contain no showers"):
        decode(content, encoding.media_type)


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b'{"showers": [[1, 2], [3]], "energy": [1]}', b'{"showers": [], "energy": []}', b"3", b"null"],
)
def test_json_of_another_kind_is_an_error_of_ours(body: bytes) -> None:
    with pytest.raises(EventsError):
        decode(body, "application/json")


def test_hdf5_of_another_layout_is_an_error_of_ours() -> None:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["showers"] = [1.0]
    with pytest.raises(EventsError, match="ECAL"):
        decode(buffer.getvalue(), "application/x-hdf5")


def test_npz_never_loads_a_pickle() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, showers=np.array([{}], dtype=object), energy=np.ones(1), allow_pickle=True)
    with pytest.raises(EventsError, match="allow_pickle"):
        decode(buffer.getvalue(), "application/x-npz")


def test_an_unknown_media_type_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(EventsError, match="application/x-npz"):
        decode(b"", "text/html")


def test_a_number_that_is_not_finite_never_leaves_as_json(events: Events) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        JSON.encode(Events(np.full_like(events.showers, np.nan), events.energy), HEADER)
