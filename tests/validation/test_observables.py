import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calogan.events import Events, packaged_sample, read_events
from calogan.validation import observables as obs


def one_cell(x: int, y: int, z: int, gev: float) -> np.ndarray:
    shower = np.zeros((1, 25, 25, 25), dtype=np.float32)
    shower[0, x, y, z] = gev
    return shower


@pytest.fixture(scope="module")
def geant4() -> Events:
    return read_events(packaged_sample())[:300]


def test_a_single_cell_has_known_observables() -> None:
    shower = one_cell(3, 12, 20, 0.25)

    assert obs.ecal(shower) == [0.25]
    assert obs.sampling_fraction(shower, np.array([10.0])) == [0.025]
    assert obs.max_cell(shower) == [0.25]
    assert obs.hits(shower).sum() == obs.hits(shower)[0, 20] == 1
    assert (
        obs.layer_energies(shower)[0, 20] == obs.profile(shower, "x")[0, 3] == obs.profile(shower, "y")[0, 12] == 0.25
    )
    assert obs.projection(shower, "xz")[0, 3, 20] == obs.projection(shower, "yz")[0, 12, 20] == 0.25
    for axis, position in (("x", 3), ("y", 12), ("z", 20)):
        assert [moment.tolist() for moment in obs.moments(obs.profile(shower, axis))] == [[position], [0.0]]


def test_two_equal_cells_have_their_half_distance_as_width() -> None:
    mean, std = obs.moments(obs.profile(one_cell(12, 12, 4, 1.0) + one_cell(12, 12, 10, 1.0), "z"))
    assert (mean.tolist(), std.tolist()) == ([7.0], [3.0])


def test_core_share_counts_the_entry_cell_and_its_neighbours() -> None:
    shower = one_cell(12, 12, 5, 2.0) + one_cell(13, 11, 9, 1.0) + one_cell(14, 12, 9, 1.0)
    assert [share.tolist() for share in obs.core_share(obs.projection(shower, "xy"))] == [[0.5], [0.75]]


def test_mean_radius_is_around_the_centre_of_the_shower() -> None:
    # 3 GeV at (12, 12) and 1 GeV at (12, 16): the centre is at (12, 13), distances 1 and 3
    shower = one_cell(12, 12, 5, 3.0) + one_cell(12, 16, 9, 1.0)
    sample = obs.observe(Events(shower, np.array([50.0], np.float32)))
    assert sample.mean_radius.tolist() == [1.5]


def test_hits_above_10_mev_are_counted_from_the_spectrum(geant4: Events) -> None:
    np.testing.assert_array_equal(obs.observe(geant4).hits_10mev, (geant4.showers >= 0.01).sum(axis=(1, 2, 3)))


def test_cell_spectrum_puts_each_cell_in_its_bin_and_loses_none_above() -> None:
    shower = one_cell(1, 1, 1, 1.5e-6) + one_cell(2, 2, 2, 3.0) + one_cell(3, 3, 3, 1e-7)
    spectrum = obs.cell_spectrum(shower)[0]
    assert (spectrum[1], spectrum[-1], spectrum.sum()) == (1, 1, 2)


def test_an_empty_shower_stays_and_divides_by_nothing() -> None:
    sample = obs.observe(Events(np.zeros((1, 25, 25, 25), np.float32), np.array([10.0], np.float32)))
    features, names = obs.high_level_features(sample)

    assert sample.sampling_fraction == [0.0]
    assert np.isnan(obs.moments(sample.profiles)[0]).all()
    assert np.isnan(features[0, names.index("core_share")])
    assert features[0, names.index("hits")] == 0


def test_cells_below_the_readout_threshold_are_ignored() -> None:
    faint = one_cell(0, 0, 0, 0.9e-6)
    showers = np.concatenate([one_cell(12, 12, 5, 1.0) + faint, faint])
    sample = obs.observe(Events(showers, np.array([50.0, 50.0], np.float32)))
    assert sample.ecal.tolist() == sample.max_cell.tolist() == [1.0, 0.0]
    assert sample.hits.sum(axis=1).tolist() == sample.spectrum.sum(axis=1).tolist() == [1, 0]


def test_observables_from_hits_agree_with_those_from_all_cells(geant4: Events) -> None:
    sample, planes = obs.observe_planes(geant4)

    assert len(sample) == len(geant4)
    np.testing.assert_allclose(sample.ecal, obs.ecal(geant4.showers), rtol=1e-6)
    for i, axis in enumerate(obs.AXES):
        np.testing.assert_allclose(sample.profiles[:, i], obs.profile(geant4.showers, axis), rtol=1e-6, atol=1e-9)
    for i, plane in enumerate(obs.PLANES):
        np.testing.assert_allclose(planes[:, i], obs.projection(geant4.showers, plane), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(sample.hits, obs.hits(geant4.showers))
    np.testing.assert_array_equal(sample.spectrum, obs.cell_spectrum(geant4.showers))
    np.testing.assert_array_equal(sample.bright_hits, (geant4.showers >= obs.BRIGHT_GEV).sum(axis=(1, 2, 3)))
    np.testing.assert_array_equal(sample.max_cell, obs.max_cell(geant4.showers))
    np.testing.assert_array_equal(sample.core_shares, np.transpose(obs.core_share(planes[:, 0])))


def test_layer_moments_are_those_of_each_layer(geant4: Events) -> None:
    sample = obs.observe(geant4)
    expected = [
        moment
        for across in (2, 1)
        for moment in obs.moments(geant4.showers.sum(axis=across, dtype=np.float64).swapaxes(1, 2))
    ]
    np.testing.assert_allclose(sample.layer_moments, np.stack(expected, axis=1), rtol=1e-3, atol=1e-2)


def test_observing_in_chunks_changes_nothing(geant4: Events) -> None:
    assert len(geant4) > obs._CHUNK
    for name, array in obs.observe(geant4).arrays().items():
        np.testing.assert_array_equal(array, getattr(obs.observe_planes(geant4)[0], name), err_msg=name)


def test_a_shower_takes_little_memory(geant4: Events) -> None:
    assert sum(array.nbytes for array in obs.observe(geant4).arrays().values()) / len(geant4) < 1500


def test_features_are_named_once_each_and_finite_where_there_is_energy(geant4: Events) -> None:
    features, names = obs.high_level_features(obs.observe(geant4))

    assert features.shape == (len(geant4), len(names))
    assert len(set(names)) == len(names)
    shares = features[:, [names.index(f"share_layer_{k}") for k in range(25)]]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert np.isfinite(features[:, [names.index("x_std"), names.index("core_share"), names.index("log10_ecal")]]).all()


@settings(deadline=None, max_examples=25)
@given(
    profiles=hnp.arrays(np.float64, (4, 25), elements=st.floats(0, 1e3)),
    scale=st.floats(1e-3, 1e3),
    order=st.permutations(range(4)),
)
def test_moments_ignore_scale_follow_order_and_mirror(profiles: np.ndarray, scale: float, order: list[int]) -> None:
    profiles[:, 7] += 1
    mean, std = obs.moments(profiles)

    np.testing.assert_allclose(obs.moments(scale * profiles), (mean, std), rtol=1e-6, atol=1e-4)
    np.testing.assert_array_equal(obs.moments(profiles[order]), (mean[order], std[order]))
    np.testing.assert_allclose(obs.moments(profiles[:, ::-1])[0], 24 - mean, rtol=1e-6, atol=1e-4)
    assert (mean >= 0).all()
    assert (mean <= 24).all()
    assert (std <= 12.0001).all()
