"""The materials of the calorimeter and the homogeneous media equivalent to its two sections.

Formulas are from G. Grindhammer and S. Peters, hep-ex/0001020 ("GP"), cited with their equation numbers where possible;
the averages over materials and the sampling constants are in the section on sampling calorimeters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calogan.geometry import CLIC

_SCALE_MEV = 21.2  # Es, the scale energy of multiple scattering


@dataclass(frozen=True)
class Material:
    """A material of the stack; compounds carry mass-weighted means.

    Attributes:
        density: g/cm3.
        radiation_length: g/cm2.
        atomic_number: Z.
        mass_number: A.
        mip: energy loss of a minimum-ionising particle, MeV cm2/g.
    """

    density: float
    radiation_length: float
    atomic_number: float
    mass_number: float
    mip: float

    @property
    def critical_energy(self) -> float:
        """Critical energy Ec = 2.66 (X0 Z/A)^1.1, MeV (GP Eq. 5)."""
        return float(2.66 * (self.radiation_length * self.atomic_number / self.mass_number) ** 1.1)


# Tungsten alloy W 93, Cu 6.1, Ni 0.9 %; BOARD is the read-out board and ground plane as one mixture.
TUNGSTEN = Material(density=17.8, radiation_length=6.97, atomic_number=70.8, mass_number=175.4, mip=1.163)
BOARD = Material(density=5.05, radiation_length=14.6, atomic_number=25.9, mass_number=55.8, mip=1.45)
SILICON = Material(density=2.33, radiation_length=21.82, atomic_number=14.0, mass_number=28.09, mip=1.664)
BOARD_MM, SILICON_MM = 1.4, 0.5

# Energy loss of a minimum-ionising particle in the silicon of one layer, GeV.
MIP_GEV = SILICON.mip * SILICON.density * SILICON_MM / 10 / 1000


@dataclass(frozen=True)
class Medium:
    """The effective homogeneous medium of a section of the stack.

    Attributes:
        layer_x0: thickness of one layer, radiation lengths.
        moliere_mm: Moliere radius, mm.
        critical_energy: critical energy, MeV.
        atomic_number: mean Z by mass.
        sampling_frequency: F_S, the effective radiation length over the pitch of the layers.
        e_mip: e/mip, electron signal over that of a minimum-ionising particle.
        mip_fraction: share of silicon in the energy loss of a minimum-ionising particle.
    """

    layer_x0: float
    moliere_mm: float
    critical_energy: float
    atomic_number: float
    sampling_frequency: float
    e_mip: float
    mip_fraction: float


def effective_medium(absorber_mm: float) -> Medium:
    """Average the materials of one layer, weighted by mass (GP, section on sampling calorimeters)."""
    layers = ((TUNGSTEN, absorber_mm), (BOARD, BOARD_MM), (SILICON, SILICON_MM))
    mass = np.array([material.density * mm / 10 for material, mm in layers])  # g/cm2
    share = mass / mass.sum()
    inverse_x0 = np.array([1 / material.radiation_length for material, _ in layers])
    critical = np.array([material.critical_energy for material, _ in layers])
    mip = mass * [material.mip for material, _ in layers]
    pitch_mm = absorber_mm + CLIC.gap_mm
    x0 = 1 / (share @ inverse_x0)  # 1/X0 = sum w/X0, g/cm2
    scatter = float(share @ (critical * inverse_x0))  # sum w Ec/X0, MeV cm2/g
    mm_per_mass = pitch_mm / mass.sum()
    return Medium(
        layer_x0=float(mass @ inverse_x0),
        moliere_mm=float(_SCALE_MEV / scatter * mm_per_mass),  # 1/R_M = 1/Es sum w Ec/X0
        critical_energy=float(x0 * scatter),  # Ec = X0 sum w Ec/X0
        atomic_number=float(share @ [material.atomic_number for material, _ in layers]),
        sampling_frequency=float(x0 * mm_per_mass / pitch_mm),  # F_S = X0/(d_active + d_passive)
        # e/mip = 1/(1 + 0.007 (Z_passive - Z_active))
        e_mip=1 / (1 + 0.007 * (TUNGSTEN.atomic_number - SILICON.atomic_number)),
        mip_fraction=float(mip[2] / mip.sum()),
    )


THIN, THICK = effective_medium(CLIC.absorber_mm[0]), effective_medium(CLIC.absorber_mm[-1])

# Absorber before each layer over that of the front section, shape (layers,).
ABSORBER: NDArray[np.float64] = np.array(CLIC.absorber_mm) / CLIC.absorber_mm[0]
IS_THIN: NDArray[np.bool_] = np.isclose(ABSORBER, 1)

# Moliere radius at each layer, shape (layers,), mm.
MOLIERE_MM: NDArray[np.float64] = np.where(IS_THIN, THIN.moliere_mm, THICK.moliere_mm)

# Depth of the boundaries of the layers behind the face, shape (layers + 1,), radiation lengths.
LAYER_EDGES_X0: NDArray[np.float64] = np.concatenate(
    [[0.0], np.cumsum(np.where(IS_THIN, THIN.layer_x0, THICK.layer_x0))]
)
