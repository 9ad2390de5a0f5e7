import contextlib
import io
import json
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calogan.errors import EventsError
from calogan.events import Hits, packaged_sample, read_events
from calogan.serving.encodings import (
    ARROW,
    ENCODINGS,
    FLOAT16,
    FLOAT32,
    HDF5,
    JSON,
    NPZ,
    Encoding,
    NotAcceptableError,
    choose,
    decode,
)

HEADER = {"seed": "7", "precision": "int8"}
DECODED = [encoding for encoding in ENCODINGS.values() if encoding.decode]


@pytest.fixture(scope="module")
def hits() -> Hits:
    return Hits.from_dense(read_events(packaged_sample())[:3])


@pytest.mark.parametrize("encoding", DECODED, ids=lambda encoding: encoding.suffix)
def test_bytes_give_the_same_showers_back_bit_for_bit(encoding: Encoding, hits: Hits) -> None:
    back = decode(encoding.encode([hits], HEADER), encoding.media_type + "; charset=utf-8")
    assert back.showers.dtype == back.energy.dtype == np.float32
    np.testing.assert_array_equal(back.showers, hits.to_dense().showers)
    np.testing.assert_array_equal(back.energy, hits.energy)


@pytest.mark.parametrize("encoding", DECODED, ids=lambda encoding: encoding.suffix)
def test_equal_showers_give_equal_bytes(encoding: Encoding, hits: Hits) -> None:
    assert encoding.encode([hits], HEADER) == encoding.encode([hits[:]], HEADER)
    assert encoding.encode([hits], HEADER) != encoding.encode([hits], HEADER | {"seed": "8"})


def test_an_arrow_stream_in_parts_is_that_of_any_arrow_reader(hits: Hits) -> None:
    content = ARROW.encode([hits[:1], hits[1:]], HEADER)
    assert content == ARROW.encode([hits], HEADER)
    with pa.ipc.open_stream(content) as stream:
        assert stream.schema.metadata == {key.encode(): value.encode() for key, value in HEADER.items()}
        table = stream.read_all()
    assert table.column_names == ["energy", "cell", "cell_energy"]
    for i in range(3):
        np.testing.assert_array_equal(table["cell"][i].values.to_numpy(), hits.cell[slice(*hits.offsets[i : i + 2])])
    np.testing.assert_array_equal(decode(content, ARROW.media_type).showers, hits.to_dense().showers)


def test_arrow_bytes_do_not_depend_on_how_showers_were_drawn(hits: Hits) -> None:
    many = Hits.concatenate([hits] * 300)
    assert ARROW.encode([many], HEADER) == ARROW.encode([many[i : i + 100] for i in range(0, 900, 100)], HEADER)


def test_arrow_of_another_kind_is_an_error_of_ours() -> None:
    sink = io.BytesIO()
    table = pa.table({"energy": [1.0]})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(EventsError, match="columns"):
        decode(sink.getvalue(), ARROW.media_type)


def test_raw_numbers_are_those_of_all_cells(hits: Hits) -> None:
    showers = hits.to_dense().showers
    assert FLOAT32.encode([hits[:2], hits[2:]], HEADER) == showers.astype("<f4").tobytes()
    assert FLOAT16.encode([hits], HEADER) == showers.astype("<f2").tobytes()
    with pytest.raises(EventsError, match="cannot be decoded"):
        decode(b"", FLOAT32.media_type)


def test_npz_carries_no_time_of_the_day(hits: Hits) -> None:
    with zipfile.ZipFile(io.BytesIO(NPZ.encode([hits], HEADER))) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_hdf5_is_the_clic_layout_with_the_header_as_attributes(hits: Hits) -> None:
    with h5py.File(io.BytesIO(HDF5.encode([hits], HEADER)), "r") as file:
        assert file["ECAL"].shape == (3, 25, 25, 25)
        np.testing.assert_array_equal(file["target"][:, 1], hits.energy)
        assert {name: file.attrs[name] for name in HEADER} == HEADER


def test_npz_and_json_carry_the_header(hits: Hits) -> None:
    with np.load(io.BytesIO(NPZ.encode([hits], HEADER))) as archive:
        assert json.loads(str(archive["header"])) == HEADER
    assert json.loads(JSON.encode([hits], HEADER))["header"] == HEADER


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
        ("*/*, application/x-hdf5;q=0", ARROW),
        ("*/*;q=0.1, application/x-hdf5;q=0, application/vnd.apache.arrow.stream;q=0", NPZ),
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
    with pytest.raises(NotAcceptableError, match=", ".join(ENCODINGS)) as raised:
        choose(accept)
    assert raised.value.http_status == 406
    assert accept in str(raised.value)


@given(st.text(alphabet=st.characters(codec="latin-1"), max_size=60))
def test_no_accept_header_breaks_the_choice(accept: str) -> None:
    with contextlib.suppress(NotAcceptableError):
        assert choose(accept) in ENCODINGS.values()


@pytest.mark.parametrize("encoding", DECODED, ids=lambda encoding: encoding.suffix)
@pytest.mark.parametrize("damage", ["empty", "half", "html", "zeros", "flipped"])
def test_damaged_bytes_are_an_error_of_ours(encoding: Encoding, damage: str, hits: Hits) -> None:
    whole = encoding.encode([hits], HEADER)
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


def test_a_number_that_is_not_finite_never_leaves_as_json(hits: Hits) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        JSON.encode([Hits(hits.offsets, hits.cell, np.full_like(hits.cell_energy, np.nan), hits.energy)], HEADER)
