"""Interaction tables: analytic limits, constants of nature, and the tables used for the reference showers."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import constants
from scipy.integrate import trapezoid

from calogan.simulation.detector import ELEMENTS
from calogan.simulation.em_tables import (
    ALPHA,
    ELECTRON_MEV,
    KINETIC_MEV,
    PHOTON_SHARES,
    PhotoFit,
    born,
    born_relativistic,
    bremsstrahlung,
    bremsstrahlung_file,
    coulomb_correction,
    electron_share,
    elwert,
    photoelectric_files,
    schiff,
)

ATOMIC_MASS = {"C": 12.011, "Si": 28.086, "Ar": 39.948, "Cu": 63.546, "W": 183.84}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables in Geant4's format."""
    if importlib.util.find_spec("geant4_pybind") is None:
        pytest.skip("geant4-pybind is not installed")
    folder = tmp_path_factory.mktemp("tables")
    command = [sys.executable, "-m", "calogan.simulation.em_tables", str(folder)]
    subprocess.run(command, check=True, env=os.environ | {"GEANT4_DATA_DIR": str(folder)}, stdin=subprocess.DEVNULL)
    return folder


@pytest.mark.parametrize("z", ELEMENTS.values())
def test_coulomb_correction_is_the_sum_it_stands_for(z: int) -> None:
    n, a2 = np.arange(1, 100_000), (ALPHA * z) ** 2
    assert coulomb_correction(z) == pytest.approx(a2 * (1 / (n * (n**2 + a2))).sum(), rel=1e-4)


@given(share=st.floats(0.01, 0.9))
def test_born_approximation_has_its_relativistic_limit(share: float) -> None:
    e0 = np.array([100 / ELECTRON_MEV])
    assert born(e0, share * e0) == pytest.approx(born_relativistic(e0, share * e0), rel=5e-3)


def test_soft_photons_of_slow_electrons() -> None:
    """Koch and Motz, formula 3BN(a): 16/3 1/p0^2 ln((p0 + p)/(p0 - p)) k sigma, for slow electrons."""
    e0, share = np.array([1 + 1e-3]), np.array([0.5])
    k = share * (e0 - 1)
    p0, p = np.sqrt(e0**2 - 1), np.sqrt((e0 - k) ** 2 - 1)
    assert born(e0, k) == pytest.approx(16 / 3 / p0**2 * np.log((p0 + p) / (p0 - p)), rel=3e-3)


@given(share=st.floats(0.01, 0.8), z=st.sampled_from(sorted(ELEMENTS.values())))
def test_complete_screening(share: float, z: int) -> None:
    """At high energy 4 ((1 + y^2 - 2 y/3) ln(183 Z^-1/3) + y/9): Koch and Motz, formula 3BS(c)."""
    e0, y = np.array([1e7]), 1 - share
    expected = 4 * ((1 + y**2 - 2 / 3 * y) * np.log(183 * z ** (-1 / 3)) + y / 9)
    assert schiff(e0, share * e0, z) == pytest.approx(expected, rel=1e-3)


def test_no_screening_close_to_the_nucleus() -> None:
    e0, k = np.array([20.0]), np.array([19.0])
    assert schiff(e0, k, 1) == pytest.approx(born_relativistic(e0, k), rel=1e-2)


def test_coulomb_factor() -> None:
    e0 = np.array([1 + 0.1 / ELECTRON_MEV])
    assert elwert(e0, 1e-9 * e0, 74) == pytest.approx(1)
    assert elwert(e0, 0.9 * (e0 - 1), 74) > elwert(e0, 0.9 * (e0 - 1), 6) > 1
    # Without attraction p/p0 of the Born cross-section is left as it is.
    assert elwert(np.array([1e4]), np.array([5e3]), 74) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("symbol", "x0"), [("C", 42.70), ("Si", 21.82), ("Ar", 19.55), ("Cu", 12.86), ("W", 6.76)])
def test_radiation_length(symbol: str, x0: float) -> None:
    """The energy radiated at 10 GeV gives the radiation lengths of the Review of Particle Physics, g/cm2."""
    z, share = ELEMENTS[symbol], np.linspace(0, 1, 2001)
    radiated_mb = z**2 * trapezoid(bremsstrahlung(z, np.array([[1e4]]), share), share)
    assert 1 / (constants.N_A / ATOMIC_MASS[symbol] * radiated_mb[0] * 1e-27) == pytest.approx(x0, rel=0.02)


def test_share_of_atomic_electrons() -> None:
    """Tsai, table B.2: 6.144/5.310 for hydrogen; small for slow electrons."""
    fast, slow = np.array([1e3]), np.array([1e-3])
    assert electron_share(1, fast) == pytest.approx(6.144 / 5.310, rel=1e-3)
    assert electron_share(74, fast) == pytest.approx(4.2158 / (3.7812 - 0.2813), rel=1e-3)
    assert electron_share(74, slow) < 1e-3


@pytest.mark.parametrize(
    ("z", "log10_mev", "share", "expected"),
    [
        (74, -3, 0.5, 9.2939),
        (74, 0, 0.05, 12.6703),
        (74, 1.5, 0.5, 7.0097),
        (74, 3, 0.97, 7.34483),
        (29, 0.5, 0.75, 3.14419),
        (14, 1, 0.25, 10.3344),
        (6, 2, 0.005, 17.4938),
    ],
)
def test_numbers_of_the_reference_showers(z: int, log10_mev: float, share: float, expected: float) -> None:
    """Scaled cross-sections, mb, of the tables used for the packaged Geant4 showers."""
    assert bremsstrahlung(z, 10.0 ** np.array([log10_mev]), np.array([share])) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("z", ELEMENTS.values())
def test_bremsstrahlung_file_holds_positive_numbers_at_rising_points(z: int) -> None:
    head, shares, logs, *rows = bremsstrahlung_file(z).splitlines()
    assert head == "0 31 71"
    assert np.array(shares.split(), float) == pytest.approx(PHOTON_SHARES)
    assert np.array(logs.split(), float) == pytest.approx(np.log(KINETIC_MEV))
    table = np.array([row.split() for row in rows], float)
    assert table.shape == (71, 31)
    assert (table > 0).all()


def test_photoelectric_shells_by_hand() -> None:
    """At an edge of 50 keV the cross-section rises fivefold, so the inner shell takes 80 %."""
    fit = PhotoFit(start=np.array([1e-3, 0.05]), factors=np.array([[0, 0, 2.0, 0], [0, 0, 10.0, 0]]))
    binding, share = fit.shells()
    assert binding == pytest.approx([0.05, 1e-3])
    assert share == pytest.approx([0.8, 0.2])
    assert fit.cross_section(np.array([0.01, 0.1])) == pytest.approx([2e6, 1e4])
    files = dict(photoelectric_files(99, fit))
    assert set(files) == {f"pe-{kind}-99.dat" for kind in ("high", "low", "cs", "le-cs", "ss-cs")}
    assert files["pe-high-99.dat"].splitlines()[1] == "0.05 0 0 8 0 0 0"
    energy, value = np.array([line.split() for line in files["pe-cs-99.dat"].splitlines()[2:]], float).T
    assert value == pytest.approx(10)  # times E^3
    assert (np.diff(energy) > 0).all()


def test_photoelectric_file_of_a_single_shell() -> None:
    fit = PhotoFit(start=np.array([1e-5]), factors=np.array([[0, 0, 2.0, 0]]))
    files = dict(photoelectric_files(1, fit))
    assert files["pe-ss-cs-1.dat"].splitlines()[0].endswith(" 0")
    assert files["pe-high-1.dat"].startswith("1 1 ")


@pytest.mark.parametrize(
    ("symbol", "edge_kev", "kev", "expected"),
    [("W", 69.5, 100, 4.1), ("Cu", 8.98, 10, 214), ("Si", 1.84, 10, 33.3)],
)
def test_photoelectric_cross_section(tables: Path, symbol: str, edge_kev: float, kev: float, expected: float) -> None:
    """K edge, and cross-section of NIST XCOM, cm2/g."""
    folder, z = tables / "epics2017" / "phot", ELEMENTS[symbol]
    energy, value = np.loadtxt(folder / f"pe-cs-{z}.dat", skiprows=2).T
    barn = np.interp(kev / 1e3, energy, value) / (kev / 1e3) ** 3
    assert constants.N_A / ATOMIC_MASS[symbol] * barn * 1e-24 == pytest.approx(expected, rel=0.03)
    assert 1e3 * np.loadtxt(folder / f"pe-high-{z}.dat", skiprows=1, max_rows=1)[0] == pytest.approx(edge_kev, rel=0.01)


def test_every_element_has_its_files(tables: Path) -> None:
    for z in ELEMENTS.values():
        assert (tables / "brem_SB" / f"br{z}").read_text(encoding="ascii") == bremsstrahlung_file(z)
        assert (tables / "epics2017" / "rayl" / f"re-cs-{z}.dat").is_file()
        assert len(list((tables / "epics2017" / "phot").glob(f"pe-*-{z}.dat"))) == 5
