"""The few interaction tables that Geant4's electromagnetic physics reads, computed from published formulas.

They replace the data set G4EMLOW where it is not installed; `APPROXIMATIONS` lists their limits. Bremsstrahlung
is scaled from the Born approximation with corrections, the photoelectric effect comes from the fit of Biggs and
Lighthill that is compiled into Geant4, Rayleigh scattering is switched off. Only the file formats follow Geant4.

`python -m calogan.simulation.em_tables FOLDER` writes them; `geant4` runs it when the tables are needed.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import constants

from calogan.simulation.detector import ELEMENTS

APPROXIMATIONS = (
    "bremsstrahlung below 1 GeV from corrected Born formulas: about 5 % at 1-20 MeV, about 1 % of the signal",
    "photoelectric effect from the Sandia fit, without details of the subshells",
    "no Rayleigh scattering and no fluorescence",
)

Float = NDArray[np.float64]

ALPHA = constants.fine_structure
ELECTRON_MEV = constants.value("electron mass energy equivalent in MeV")
RADIUS2_MB = constants.value("classical electron radius") ** 2 * 1e31  # r_e^2, millibarn

# Grid of the bremsstrahlung tables: k/T, and kinetic energy T in MeV, from 1 keV to 10 GeV.
PHOTON_SHARES: Float = np.concatenate(
    [[0, 1e-4, 1e-3, 0.005, 0.01, 0.025], np.arange(0.05, 0.951, 0.05), [0.97, 0.98, 0.99, 0.995, 0.999, 1]]
)
KINETIC_MEV: Float = np.logspace(-3, 4, 71)

_EDGE_MEV = 1e-3  # absorption edges below 1 keV are not resolved


def coulomb_correction(z: int) -> float:
    """f(Z) = a^2 sum 1/(n (n^2 + a^2)), a = alpha Z: H. Davies, H. A. Bethe, L. C. Maximon, Phys. Rev. 93 (1954) 788.

    The series is that of the Review of Particle Physics, passage of particles through matter, radiation length.
    """
    a2 = (ALPHA * z) ** 2
    return float(a2 * (1 / (1 + a2) + 0.20206 - 0.0369 * a2 + 0.0083 * a2**2 - 0.002 * a2**3))


def born(e0: Float, k: Float) -> Float:
    """Bremsstrahlung of an unscreened nucleus in Born approximation (Bethe and Heitler).

    Formula 3BN of H. W. Koch and J. W. Motz, Rev. Mod. Phys. 31 (1959) 920.

    Args:
        e0: total energy of the electron, m_e c^2.
        k: energy of the photon, m_e c^2.

    Returns:
        k dsigma/dk in units of alpha r_e^2 Z^2.
    """
    e = e0 - k
    p0, p = np.sqrt(e0**2 - 1), np.sqrt(np.maximum(e**2 - 1, 1e-14))
    eps0, eps = 2 * np.log(e0 + p0), 2 * np.log(e + p)
    log = 2 * np.log((e0 * e + p0 * p - 1) / k)
    small = (e0 * e + p0**2) * eps0 / p0**3 - (e0 * e + p**2) * eps / p**3 + 2 * k * e0 * e / (p0 * p) ** 2
    bracket = (
        8 / 3 * e0 * e / (p0 * p) + k**2 * (e0**2 * e**2 + p0**2 * p**2) / (p0 * p) ** 3 + k * small / (2 * p0 * p)
    )
    rest = 4 / 3 - 2 * e0 * e * (p**2 + p0**2) / (p0 * p) ** 2
    rest += eps0 * e / p0**3 + eps * e0 / p**3 - eps0 * eps / (p0 * p)
    result: Float = p / p0 * (rest + log * bracket)
    return result


def born_relativistic(e0: Float, k: Float) -> Float:
    """Extreme relativistic limit of `born`: Koch and Motz, formula 3BN(b); same arguments and units."""
    y = (e0 - k) / e0
    result: Float = 2 * (1 + y**2 - 2 / 3 * y) * (2 * np.log(2 * e0 * (e0 - k) / k) - 1)
    return result


def schiff(e0: Float, k: Float, z: int) -> Float:
    """Extreme relativistic bremsstrahlung of an atom that screens its nucleus exponentially.

    L. I. Schiff, Phys. Rev. 83 (1951) 252; formula 3BS(e) of Koch and Motz; arguments and units as in `born`.
    """
    e, screening = e0 - k, z ** (1 / 3) / 111
    y = e / e0
    b = 2 * e0 * e * screening / k
    log = -np.log((k / (2 * e0 * e)) ** 2 + screening**2)  # ln M(0)
    angle = np.arctan(b)
    first = log + 1 - 2 / b * angle
    second = 2 / b**2 * np.log1p(b**2) + 4 * (2 - b**2) / (3 * b**3) * angle - 8 / (3 * b**2) + 2 / 9
    # Differences of large numbers for small b, where nothing is screened.
    first = np.where(b < 1e-2, 2 * np.log(2 * e0 * e / k) - 1, first)
    second = np.where(b < 1e-2, 0.0, second)
    result: Float = 2 * ((1 + y**2 - 2 / 3 * y) * first + y * second)
    return result


def elwert(e0: Float, k: Float, z: int) -> Float:
    """Coulomb factor of slow electrons: G. Elwert, Ann. Phys. 426 (1939) 178; Koch and Motz, eq. II-6."""
    beta0, beta = np.sqrt(1 - 1 / e0**2), np.sqrt(1 - 1 / (e0 - k) ** 2)
    attraction = 2 * np.pi * ALPHA * z
    result: Float = beta0 * np.expm1(-attraction / beta0) / (beta * np.expm1(-attraction / beta))
    return result


def electron_share(z: int, kinetic_mev: Float) -> Float:
    """Return eta of Z^2 -> Z (Z + eta), the bremsstrahlung on atomic electrons.

    At high energy it is the ratio of the radiation logarithms of Y.-S. Tsai, Rev. Mod. Phys. 46 (1974) 815, table B.2;
    hydrogen has its own logarithms. The factor is a guess: slow electrons radiate little on other electrons.
    """
    nucleus, electrons = (5.310, 6.144) if z == 1 else (np.log(184.15 * z ** (-1 / 3)), np.log(1194 * z ** (-2 / 3)))
    high = electrons / (nucleus - coulomb_correction(z))
    share: Float = high * -np.expm1(-kinetic_mev / 1.5)
    return share


def bremsstrahlung(z: int, kinetic_mev: Float, photon_share: Float) -> Float:
    """Scaled cross-section chi = (beta/Z)^2 k dsigma/dk of an electron on an atom.

    S. M. Seltzer and M. J. Berger, At. Data Nucl. Data Tables 35 (1986) 345, tabulate chi. The effect of screening is
    taken from the relativistic limit. The Coulomb correction is that of Davies, Bethe and Maximon above 50 MeV and a
    fitted enhancement of 1 + 0.75 (alpha Z)^2 below 1 MeV; in between their weights change smoothly with ln T.

    Args:
        z: atomic number.
        kinetic_mev: kinetic energy T of the electron, MeV.
        photon_share: k/T, broadcast against `kinetic_mev`.

    Returns:
        chi, millibarn, of the common shape.
    """
    e0 = kinetic_mev / ELECTRON_MEV + 1
    k = (
        np.clip(photon_share, 1e-6, 0.9995) * kinetic_mev / ELECTRON_MEV
    )  # the formulas diverge at 0 and T, chi does not
    y = (e0 - k) / e0
    limit = born_relativistic(e0, k)
    bare = np.where(kinetic_mev > 200, limit, born(e0, k))  # 3BN loses all its digits at high energy
    screened = np.maximum(bare + schiff(e0, k, z) - limit, 0.2 * bare)
    corrected = np.maximum(screened - 4 * coulomb_correction(z) * (1 + y**2 - 2 / 3 * y), 0.2 * screened)
    weight = np.clip(np.log(kinetic_mev) / np.log(50), 0, 1)
    weight = weight**2 * (3 - 2 * weight)
    coulomb = (1 - weight) * (1 + 0.75 * (ALPHA * z) ** 2) + weight * corrected / screened
    beta2 = 1 - 1 / e0**2
    chi: Float = (
        ALPHA * RADIUS2_MB * beta2 * screened * elwert(e0, k, z) * coulomb * (1 + electron_share(z, kinetic_mev) / z)
    )
    return chi


@dataclass(frozen=True, eq=False)
class PhotoFit:
    """Photoelectric cross-section of an element: sum over j of a_j E^-j, with different a_j in each interval of E.

    F. Biggs and R. Lighthill, Sandia report SAND87-0070 (1990).

    Attributes:
        start: lower end of each interval, ascending, shape (m,), MeV.
        factors: a_1 to a_4 in each interval, shape (m, 4), barn MeV^j.
    """

    start: Float
    factors: Float

    def cross_section(self, energy: Float, interval: NDArray[np.intp] | None = None) -> Float:
        """Cross-section at some energies in MeV, barn; `interval` selects the interval for an energy on a border."""
        if interval is None:
            interval = np.clip(np.searchsorted(self.start, energy, side="right") - 1, 0, None)
        total: Float = (self.factors[interval] * energy[:, None] ** -np.arange(1.0, 5.0)).sum(axis=1)
        return total

    def shells(self) -> tuple[Float, Float]:
        """Binding energy of each shell, innermost first, MeV, and its share of the cross-section above the first.

        A shell is a border of intervals where the cross-section rises by more than 3 %; the outer shells count as one.
        """
        border, upper = self.start[1:], np.arange(1, len(self.start))
        above, below = self.cross_section(border, upper), self.cross_section(border, upper - 1)
        is_edge = (above > 1.03 * below) & (border > _EDGE_MEV)
        binding = np.append(border[is_edge][::-1], self.start[0])
        own = np.append((1 - below / above)[is_edge][::-1], 1.0)
        rest = np.cumprod(np.append(1.0, 1 - own[:-1]))  # share that the shells further in leave over
        return binding, own * rest

    def energies(self, low: float, high: float, points: int) -> Float:
        """Energies for a table, MeV: equally spaced in ln E, and one on either side of each border."""
        borders = self.start[(self.start > low) & (self.start < high)]
        grid = np.concatenate([np.geomspace(low, high, points), borders * (1 - 1e-6), borders * (1 + 1e-6)])
        return np.unique(grid[(grid >= low) & (grid <= high)])


def bremsstrahlung_file(z: int) -> str:
    """Text of `brem_SB/br<Z>`: sizes, k/T, ln T, then chi in one row for each T."""
    table = bremsstrahlung(z, KINETIC_MEV[:, None], PHOTON_SHARES)
    lines = [f"0 {len(PHOTON_SHARES)} {len(KINETIC_MEV)}", _row(PHOTON_SHARES, 6), _row(np.log(KINETIC_MEV), 8)]
    return "\n".join([*lines, *(_row(row, 6) for row in table), ""])


def photoelectric_files(z: int, fit: PhotoFit) -> Iterator[tuple[str, str]]:
    """Names and texts of `epics2017/phot/pe-*-<Z>.dat`; cross-sections are tabulated times E^3, in barn MeV^3."""
    binding, share = fit.shells()
    innermost, outermost = binding[0], binding[-1]
    top = max(fit.start[-1], 1.5 * innermost)
    # Above the tables the last interval applies: Geant4 wants a_1 to a_6 for each shell together with all inside it.
    rows = [f"{e:.8g} {_row(total * fit.factors[-1], 8)} 0 0" for e, total in zip(binding, _to_one(share), strict=True)]
    parameters = "\n".join([f"{len(binding)} {len(binding)} {fit.start[-1]:.8g}", *rows, ""])
    yield f"pe-high-{z}.dat", parameters
    yield f"pe-low-{z}.dat", parameters

    yield f"pe-cs-{z}.dat", _spectrum(fit, fit.energies(innermost * (1 + 1e-7), top, 200))
    if len(binding) > 1:
        below = fit.energies(outermost, innermost * (1 - 1e-7), 400)
    else:
        below = fit.energies(outermost, 2 * innermost, 10)
    yield f"pe-le-cs-{z}.dat", _spectrum(fit, below)

    energy = fit.energies(outermost, top, 400)
    open_share = share * (energy[:, None] >= binding)
    open_share /= np.maximum(open_share.sum(axis=1, keepdims=True), 1e-30)
    value = fit.cross_section(energy) * energy**3
    blocks = [
        f"{energy[0]:.10g} {energy[-1]:.10g} {len(energy)} {shell}\n{_columns(energy, value * open_share[:, shell])}"
        for shell in range(len(binding))
    ]
    yield f"pe-ss-cs-{z}.dat", "".join(blocks)


def write_tables(folder: Path) -> None:
    """Write the tables of all `ELEMENTS` into a folder with the layout of G4EMLOW."""
    files = {f"brem_SB/br{z}": bremsstrahlung_file(z) for z in ELEMENTS.values()}
    for symbol, z in ELEMENTS.items():
        files[f"epics2017/rayl/re-cs-{z}.dat"] = "1e-05 1e+05 2\n2\n1e-05 0\n1e+05 0\n"
        files |= {f"epics2017/phot/{name}": text for name, text in photoelectric_files(z, _sandia_fit(symbol))}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


def _sandia_fit(symbol: str) -> PhotoFit:
    """Read the fit from Geant4; GEANT4_DATA_DIR must be set, or the import offers to download Geant4's data."""
    import geant4_pybind as g4  # type: ignore[import-not-found]  # noqa: PLC0415

    material = g4.G4NistManager.Instance().FindOrBuildMaterial(f"G4_{symbol}")
    table = material.GetSandiaTable()
    rows = np.array(
        [[table.GetSandiaCofForMaterial(i, j) for j in range(5)] for i in range(table.GetMatNbOfIntervals())]
    )
    per_atom = 1 / material.GetTotNbOfAtomsPerVolume() / g4.barn
    return PhotoFit(start=rows[:, 0], factors=rows[:, 1:] * per_atom)


def _to_one(share: Float) -> Float:
    """Cumulative sum of shares; the last entry is exactly one."""
    total = np.cumsum(share)
    total[-1] = 1
    return total


def _spectrum(fit: PhotoFit, energy: Float) -> str:
    head = f"{energy[0]:.10g} {energy[-1]:.10g} {len(energy)}\n{len(energy)}\n"
    return head + _columns(energy, fit.cross_section(energy) * energy**3)


def _columns(energy: Float, value: Float) -> str:
    return "".join(f"{e:.10g} {v:.8g}\n" for e, v in zip(energy, value, strict=True))


def _row(values: Float, digits: int) -> str:
    return " ".join(f"{value:.{digits}g}" for value in values)


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]))
