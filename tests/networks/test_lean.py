import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from calogan.config import Network
from calogan.events import Events
from calogan.geometry import CLIC
from calogan.networks import lean
from calogan.networks.families import build_generator


@pytest.fixture(scope="module")
def model(geant4: Events) -> lean.Lean:
    """An untrained network around the mean shape of showers."""
    keras.utils.set_random_seed(1)
    network = build_generator(Network(width=8))
    assert isinstance(network, lean.Lean)
    network.template.assign(lean.template(geant4.showers.mean(axis=0, dtype="float64")))
    return network


@pytest.fixture(scope="module")
def logits() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((8, 5, 5, 625), np.float32)


@pytest.fixture(scope="module")
def layers(geant4: Events) -> NDArray[np.float32]:
    """Energies of the layers of showers of at least 100 GeV, shape (8, 25), GeV."""
    return np.asarray(geant4.showers[geant4.energy > 100][:8].sum(axis=(1, 2)))


def test_rates_times_quanta_are_the_energies_of_the_layers(
    model: lean.Lean, logits: NDArray[np.float32], layers: NDArray[np.float32]
) -> None:
    rate, quantum = model.rates(logits, layers)
    assert (np.asarray(rate) > 0).all()
    np.testing.assert_allclose(np.sum(rate * quantum, axis=(1, 2)), layers, rtol=1e-4, atol=1e-7)


def test_the_quantum_depends_on_layer_ring_and_side_only(model: lean.Lean) -> None:
    before = model.log_quantum.numpy()
    changed = before.copy()
    changed[7, 3 * 2 + 1] = 0.0
    model.log_quantum.assign(changed)
    quantum = np.asarray(model.quantum())
    model.log_quantum.assign(before)
    x, y, z = np.nonzero(quantum > 0.5)
    assert set(z) == {7}
    # Two cells from the axis, above it: one at (0, 2) and its neighbours left and right, at a distance of 2.24.
    assert sorted(zip((x - 12).tolist(), (y - 12).tolist(), strict=True)) == [(-1, 2), (0, 2), (1, 2)]


def test_the_layers_of_showers_sum_to_the_energies_drawn(
    model: lean.Lean, logits: NDArray[np.float32], layers: NDArray[np.float32]
) -> None:
    noise = np.random.default_rng(2).standard_normal((8, *CLIC.shape), np.float32)
    showers = np.asarray(model.finish(logits, layers, noise))
    # What is below the read-out threshold is set to 0.
    np.testing.assert_allclose(showers.sum(axis=(1, 2)), layers, rtol=1e-4, atol=625 * CLIC.threshold_gev)
    assert not ((showers > 0) & (showers < CLIC.threshold_gev)).any()
    assert 0.01 < (showers > 0).mean() < 0.5


def test_a_layer_without_a_hit_has_its_energy_in_the_central_cell(
    model: lean.Lean, layers: NDArray[np.float32]
) -> None:
    logits = np.zeros((8, 5, 5, 625), np.float32)
    faint = layers / 1000
    showers = np.asarray(model.finish(logits, faint, np.full((8, *CLIC.shape), -10.0, np.float32)))
    assert (showers > 0).sum() == (faint >= CLIC.threshold_gev).sum()
    np.testing.assert_allclose(showers[:, *CLIC.entry_cell], np.where(faint < CLIC.threshold_gev, 0, faint), rtol=1e-6)


def test_tracks_are_shared_with_each_neighbour_alike(model: lean.Lean) -> None:
    noise = np.random.default_rng(4).standard_normal((64, *CLIC.shape), np.float32)
    energy = np.zeros((64, *CLIC.shape), np.float32)
    energy[:, 12, 12] = 1.0  # a mean deposit
    quantum = np.full(CLIC.shape, 2e-4, np.float32)
    shared = np.asarray(model.shared(energy, quantum, np.zeros_like(energy), noise))
    arrivals = (shared > 0).sum(axis=(0, 3)) / (64 * 25)
    assert {(int(x) - 12, int(y) - 12) for x, y in np.argwhere(arrivals)} == {(1, 0), (-1, 0), (0, 1), (0, -1)}
    np.testing.assert_allclose(arrivals[arrivals > 0], lean.SHARED, atol=4 * np.sqrt(lean.SHARED / (64 * 25)))
    assert shared.max() < 2e-4
    assert shared[shared > 0].mean() == pytest.approx(1e-4, rel=0.2)


def test_shared_tracks_are_expected_next_to_cells_that_are_hit(model: lean.Lean) -> None:
    rate = np.zeros((1, *CLIC.shape), np.float32)
    rate[0, 12, 12, 3] = 2.0
    added = np.asarray(model.with_shared(rate))[0] - rate[0]
    assert added.sum() == pytest.approx(4 * lean.SHARED * 2 / 3, rel=1e-3)
    around = [added[11, 12, 3], added[13, 12, 3], added[12, 11, 3], added[12, 13, 3]]
    np.testing.assert_allclose(around, lean.SHARED * 2 / 3, rtol=1e-3)


def test_correcting_the_energy_of_a_layer_narrows_the_spread_of_hits(
    model: lean.Lean, layers: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 200
    noise = np.random.default_rng(5).standard_normal((n, *CLIC.shape), np.float32)
    flat = np.zeros((n, 5, 5, 625), np.float32)
    one = np.repeat(layers[:1], n, axis=0)

    def hits() -> NDArray[np.float64]:
        showers = np.asarray(model.finish(flat, one, noise))
        return np.asarray((showers > 0).sum(axis=(1, 2))[:, 6:15], np.float64)

    put_right = hits()
    monkeypatch.setattr(lean, "BY_CROSSINGS", 0.0)
    as_drawn = hits()
    np.testing.assert_allclose(put_right.mean(axis=0), as_drawn.mean(axis=0), rtol=0.05)
    assert (put_right.var(axis=0) / as_drawn.var(axis=0)).mean() < 0.98


def test_the_three_parts_in_a_row_are_the_model(model: lean.Lean) -> None:
    rng = np.random.default_rng(3)
    energy = np.array([50, 200], np.float32)
    latent = rng.standard_normal((2, model.latent_size), np.float32)
    noise = rng.standard_normal((2, *CLIC.shape), np.float32)
    features, layers = model.prepare(energy, latent)
    assert features.shape == (2, 37)
    assert layers.shape == (2, 25)
    showers = model.finish(model.network(features), layers, noise)
    np.testing.assert_array_equal(model(energy, latent, noise), showers)


def test_the_template_is_the_logarithm_of_the_mean_shares_mirrored_in_x(geant4: Events) -> None:
    template = lean.template(geant4.showers.mean(axis=0, dtype="float64"))
    np.testing.assert_array_equal(template, template[::-1])
    np.testing.assert_allclose((np.exp(template.astype(np.float64)) - 1e-6).sum(axis=(0, 1)), 1, rtol=1e-4)


def test_a_position_of_the_network_is_a_block_of_five_by_five_cells(model: lean.Lean) -> None:
    logits = np.zeros((1, 5, 5, 625), np.float32)
    logits[0, 1, 3] = 1.0
    raised = np.asarray(
        model.rates(logits, np.ones((1, 25), np.float32))[0] / model.rates(0 * logits, np.ones((1, 25)))[0]
    )
    x, y, _ = np.nonzero(raised[0] > 1.5)
    assert (set(x.tolist()), set(y.tolist())) == (set(range(5, 10)), set(range(15, 20)))
    cells = np.arange(25**3).reshape(CLIC.shape)
    np.testing.assert_array_equal(lean.to_blocks(cells)[1, 3].reshape(5, 5, 25), cells[5:10, 15:20])


def test_no_convolution_is_transposed(model: lean.Lean) -> None:
    kinds = [type(layer).__name__ for layer in model.network.layers]
    assert kinds.count("Conv2D") == 3
    assert "Conv2DTranspose" not in kinds
