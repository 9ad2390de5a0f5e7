from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from calogan.events import Events, Hits, checked_hits
from calogan.generation import cell_sampling, freezing, model_folder
from calogan.generation.cell_tables import CellTables, deviates
from calogan.geometry import CLIC
from calogan.networks import lean


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> lean.Lean:
    loaded = freezing.load_generator_network(tiny_model, model_folder.read(tiny_model))
    assert isinstance(loaded, lean.Lean)
    return loaded


def tails(model: lean.Lean, layers: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Showers by `Lean.finish`, and by the compiled tail from the same random bits."""
    rng = np.random.default_rng(1)
    logits = 0.5 * rng.standard_normal((len(layers), 5, 5, 625), np.float32)
    bits = rng.integers(0, 2**16, (len(layers), 3 + 25**3), dtype=np.uint16)
    cells = CellTables(**model.tables())
    arrays = cell_sampling.drawer(cells)(logits.reshape(len(layers), -1), 1.0, layers, bits, 3)
    checked_hits(Hits(*arrays, layers.sum(axis=1)), origin="the compiled tail")
    sparse = np.full((len(layers), 25**3), np.nan, np.float32)
    cell_sampling.fill(*arrays, sparse)
    own = bits[:, 3:].astype(float)
    order = (cells.place[:, None] + np.arange(CLIC.layers)).reshape(-1)
    tail = np.empty_like(own)
    tail[:, order] = (own + (np.roll(own, -lean.FINE, axis=1) + 0.5) / 2**16) / 2**16
    noise = -special.ndtri(tail).reshape(-1, *CLIC.shape).astype(np.float32)
    dense = np.asarray(model.finish(logits, layers, noise))
    return dense, sparse.reshape(dense.shape)


def test_the_compiled_tail_draws_the_showers_of_the_dense_one(model: lean.Lean, geant4: Events) -> None:
    dense, sparse = tails(model, geant4.showers[:32].sum(axis=(1, 2)))
    same = ((dense > 0) == (sparse > 0)).all(axis=(1, 2))
    assert same.mean() > 0.99
    same = np.broadcast_to(same[:, None, None, :], dense.shape)
    # The compiled tail has 16 bits for the energy of a shared track.
    assert np.isclose(sparse[same], dense[same], rtol=5e-3, atol=5e-6).mean() > 0.99999
    assert 0.01 < (sparse > 0).mean() < 0.3


def test_the_normal_deviates_have_their_upper_tails() -> None:
    tails = np.concatenate([np.geomspace(2.0**-20, 0.5, 1_000), 1 - np.geomspace(2.0**-20, 0.5, 1_000)]).astype(
        np.float32
    )
    normals = np.empty_like(tails)
    cell_sampling._deviates(tails, deviates(), np.empty_like(tails), normals)
    np.testing.assert_allclose(normals, -special.ndtri(tails.astype(float)), atol=2e-3)
    cell_sampling._deviates(np.zeros(1, np.float32), deviates(), np.empty(1, np.float32), normals[:1])
    assert normals[0] > 4.4


def test_no_cell_that_is_hit_is_passed_over() -> None:
    rate = np.geomspace(1e-7, 10, 1_000)
    # A cell is hit if its number is below 1 - exp(-rate), also after the rate has been raised.
    risen = lean.FACTOR_MAX * rate
    assert (-np.expm1(-risen) < risen / (1 + risen / 2)).all()


def test_both_tails_agree_where_a_layer_is_not_hit(model: lean.Lean, geant4: Events) -> None:
    layers = geant4.showers[:32].sum(axis=(1, 2))
    layers[:, ::2] = 5e-5  # seldom enough for one crossing
    dense, sparse = tails(model, layers)
    differ = ((dense > 0) != (sparse > 0)).any(axis=(1, 2))
    assert differ.mean() < 0.05
    # Where no cell was hit the central one has it all, which an ordinary draw hardly ever gives.
    assert np.isclose(sparse[:, *CLIC.entry_cell][:, ::2], 5e-5, rtol=1e-3).mean() > 0.3
    same = np.broadcast_to(~differ[:, None, None, :], dense.shape)
    # Here and there the dense tail shares a layer with a cell that then falls below the read-out threshold.
    assert np.isclose(sparse[same], dense[same], rtol=5e-3, atol=1e-6).mean() > 0.999
    assert not ((sparse > 0) & (sparse < CLIC.threshold_gev)).any()


def test_the_layers_of_the_compiled_tail_sum_to_their_energies(model: lean.Lean, geant4: Events) -> None:
    layers = geant4.showers[:32].sum(axis=(1, 2))
    sparse = tails(model, layers)[1]
    np.testing.assert_allclose(sparse.sum(axis=(1, 2)), layers, rtol=1e-4, atol=625 * CLIC.threshold_gev)


def test_showers_with_more_hits_than_there_is_room_for_at_first(model: lean.Lean, geant4: Events) -> None:
    layers = np.repeat(geant4.showers[:1].sum(axis=(1, 2)), 80, axis=0) * 1000
    sparse = tails(model, layers)[1]
    assert np.count_nonzero(sparse) > 2 * cell_sampling._ROOM * 25**3
    np.testing.assert_allclose(sparse.sum(axis=(1, 2)), layers, rtol=1e-4, atol=625 * CLIC.threshold_gev)
