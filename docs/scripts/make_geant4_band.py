"""Make the table of Geant4 that the page of the endpoint draws its bands from.

The packaged showers are flat in energy, so there are few of them at low energies. For the table of the package, 250 more
were simulated in each octave from 2 GeV on (`origin` in the table lists them), and given to this script:

    calogan simulate --engine geant4 --energy 2:4 --n 250 --seed 17 --out g4_2-4.h5
    python docs/scripts/make_geant4_band.py --showers g4_*.h5
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calogan.events import packaged_sample, read_events
from calogan.events.files import read_header
from calogan.serving import browser
from calogan.validation.observables import AXES, Observables, moments, observe

ENERGIES_GEV = (2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 180, 260, 360, 500)
NEAREST = 120  # showers at each energy
QUANTILES = {"p16": 0.16, "p84": 0.84}
ORIGIN = (  # attributes of the files that are kept
    "origin", "geant4_version", "physics_list", "interaction_data", "production_cut_mm", "field_tesla", "seed",
)  # fmt: skip
Floats = NDArray[np.float64]


def table(showers: Observables) -> dict[str, Any]:
    """Compute profiles, as shares of Ep, and observables of the showers around each energy."""
    profiles = {axis: np.clip(_at_energies(showers, share), 0, None) for axis, share in _shares(showers).items()}
    mean_layer, _ = moments(showers.profiles[:, 2])
    observables = {
        "sampling_fraction": 100 * showers.sampling_fraction,
        "hits": showers.hits.sum(axis=1).astype(np.float64),
        "mean_layer": mean_layer,
    }
    return {
        "energy": list(ENERGIES_GEV),
        "profiles": {
            axis: {
                "mean": _digits(values.mean(axis=1)),
                **{name: _digits(np.quantile(values, share, axis=1)) for name, share in QUANTILES.items()},
            }
            for axis, values in profiles.items()
        },
        "observables": {
            name: _digits(np.stack([at.mean(axis=1), at.std(axis=1)], axis=1))
            for name, at in ((name, _at_energies(showers, values)) for name, values in observables.items())
        },
    }


def _shares(showers: Observables) -> dict[str, Floats]:
    return {axis: showers.profiles[:, i] / showers.energy[:, None] for i, axis in enumerate(AXES)}


def _at_energies(showers: Observables, values: Floats) -> Floats:
    """Values of the nearest showers in ln Ep, moved to each energy along the line fitted to them, shape (k, n, ...)."""
    moved = []
    for energy in ENERGIES_GEV:
        distance = np.log(showers.energy / energy)
        near = np.argsort(np.abs(distance))[:NEAREST]
        offset = distance[near] - distance[near].mean()
        slope = np.tensordot(offset, values[near], 1) / (offset @ offset)
        moved.append(values[near] - np.multiply.outer(distance[near], slope))
    return np.stack(moved)


def _digits(values: Floats) -> list[Any]:
    rounded: list[Any] = np.vectorize(lambda value: float(f"{value:.3g}"), otypes=[float])(values).tolist()
    return rounded


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--showers", nargs="*", default=[], help="files of further Geant4 showers")
    files = [packaged_sample(), *map(Path, parser.parse_args().showers)]
    samples = [observe(read_events([file])) for file in files]
    showers = Observables(
        **{name: np.concatenate([sample.arrays()[name] for sample in samples]) for name in samples[0].arrays()}
    )
    origin = [
        {"showers": len(sample), "low_gev": round(min(sample.energy), 1), "high_gev": round(max(sample.energy), 1)}
        | {name: text for name, text in read_header(file).items() if name in ORIGIN}
        for file, sample in zip(files, samples, strict=True)
    ]
    path = browser.PAGE / "geant4.json"
    path.write_text(json.dumps({"origin": origin, **table(showers)}, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{path}: {len(showers.energy)} showers, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
