"""One Geant4 run in its own process, started by `geant4.simulate`.

It reads a job as JSON from standard input and writes each shower to standard output as soon as it is finished: float32
cells, GeV, in the order of `Detector.grid`. The output of Geant4 goes to standard error.
"""

import json
import os
import sys
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from calogan.simulation.detector import SENSITIVE, Detector

if "GEANT4_DATA_DIR" not in os.environ:
    raise ImportError(
        "GEANT4_DATA_DIR is not set, so geant4_pybind would offer a download; call geant4.simulate, which sets it"
    )
import geant4_pybind as g4  # type: ignore[import-not-found]

_SCORER, _PRIMITIVE = "ecal", "edep"


class _Stack(g4.G4VUserDetectorConstruction):  # type: ignore[misc]
    """World, plates and cells; Geant4 does not own the objects that Python creates, so they are referenced here."""

    def __init__(self, detector: Detector, field_tesla: float) -> None:
        super().__init__()
        self.detector, self.grid, self.field_tesla = detector, detector.grid, field_tesla
        self.keep: list[Any] = []
        self.plates: dict[tuple[str, float], Any] = {}

    def Construct(self) -> Any:  # noqa: N802 - the name is Geant4's
        nist = g4.G4NistManager.Instance()
        self.materials = {SENSITIVE: nist.FindOrBuildMaterial("G4_Si")}
        for name, mixture in self.detector.materials.items():
            material = g4.G4Material(name, mixture.density * g4.g / g4.cm3, len(mixture.elements))
            for symbol, share in mixture.elements.items():
                material.AddElement(nist.FindOrBuildElement(symbol), share)
            self.materials[name] = material

        gap = [(slab.material, slab.mm) for slab in self.detector.gap]
        slices = [
            (layer, material, mm)
            for layer, absorber_mm in enumerate(self.grid.absorber_mm)
            for material, mm in [(self.detector.absorber, absorber_mm), *gap]
        ]
        side, depth = self.detector.plate_mm, sum(mm for _, _, mm in slices)
        # The world ends with the stack: in a gap behind it the field would bend electrons back into the last layer.
        world = self._box("world", self.detector.medium, (2 * side, 2 * side, 2 * depth))
        stack = self._box("stack", self.detector.medium, (side, side, depth))
        self._place(stack, world, z=depth / 2)
        z = -depth / 2
        for layer, material, mm in slices:
            if material != self.detector.medium:
                self._place(self._plate(material, mm), stack, z=z + mm / 2, copy=layer)
            z += mm
        return self._place(world, None)

    def ConstructSDandField(self) -> None:  # noqa: N802
        if self.field_tesla:
            self.keep.append(g4.G4GlobalMagFieldMessenger(g4.G4ThreeVector(self.field_tesla * g4.tesla, 0, 0)))
        nx, ny, layers = self.grid.shape
        # The copy numbers of plate, row and cell are 3, 1 and 0 levels up from the cell: layer, x and y.
        scorer = g4.G4MultiFunctionalDetector(_SCORER)
        g4.G4SDManager.GetSDMpointer().AddNewDetector(scorer)
        scorer.RegisterPrimitive(g4.G4PSEnergyDeposit3D(_PRIMITIVE, layers, nx, ny, 3, 1, 0))
        self.SetSensitiveDetector("cell", scorer)
        self.keep.append(scorer)

    def _plate(self, material: str, mm: float) -> Any:
        """One logical volume for all equal plates."""
        if (material, mm) not in self.plates:
            side = self.detector.plate_mm
            plate = self.plates[material, mm] = self._box(f"{material}_{mm}", material, (side, side, mm))
            if material == SENSITIVE:
                self._divide(plate, mm)
        return self.plates[material, mm]

    def _divide(self, plate: Any, mm: float) -> None:
        (nx, ny, _), cell = self.grid.shape, self.grid.cell_mm
        window = self._box("window", SENSITIVE, (nx * cell, ny * cell, mm))
        row = self._box("row", SENSITIVE, (cell, ny * cell, mm))
        self._place(window, plate)
        self.keep.append(g4.G4PVReplica("row", row, window, g4.kXAxis, nx, cell * g4.mm))
        box = self._box("cell", SENSITIVE, (cell, cell, mm))
        self.keep.append(g4.G4PVReplica("cell", box, row, g4.kYAxis, ny, cell * g4.mm))

    def _box(self, name: str, material: str, sides_mm: tuple[float, float, float]) -> Any:
        solid = g4.G4Box(name, *(side * g4.mm / 2 for side in sides_mm))
        volume = g4.G4LogicalVolume(solid, self.materials[material], name)
        self.keep.append(volume)
        return volume

    def _place(self, volume: Any, mother: Any, z: float = 0, copy: int = 0) -> Any:
        where = g4.G4ThreeVector(0, 0, z * g4.mm)
        placement = g4.G4PVPlacement(None, where, volume, volume.GetName(), mother, False, copy, False)
        self.keep.append(placement)
        return placement


class _Physics(g4.G4VModularPhysicsList):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.electromagnetic = g4.G4EmStandardPhysics()
        self.RegisterPhysics(self.electromagnetic)
        self.SetVerboseLevel(0)


class _Gun(g4.G4VUserPrimaryGeneratorAction):  # type: ignore[misc]
    """One electron onto the centre of the entry cell, from 1 mm before the first plate."""

    def __init__(self, job: dict[str, Any], detector: Detector) -> None:
        super().__init__()
        self.job = job
        grid = detector.grid
        x, y = ((entry - (n - 1) / 2) * grid.cell_mm for entry, n in zip(grid.entry_cell, grid.shape[:2], strict=True))
        self.gun = g4.G4ParticleGun(1)
        self.gun.SetParticleDefinition(g4.G4ParticleTable.GetParticleTable().FindParticle("e-"))
        self.gun.SetParticlePosition(g4.G4ThreeVector(x * g4.mm, y * g4.mm, -1 * g4.mm))
        self.gun.SetParticleMomentumDirection(g4.G4ThreeVector(0, 0, 1))

    def GeneratePrimaries(self, event: Any) -> None:  # noqa: N802
        number = event.GetEventID()
        seed = np.random.SeedSequence(self.job["seed"], spawn_key=(self.job["first"] + number,))
        # The engine takes four words and stops at the first zero; setting the lowest bit avoids zeros.
        words = [int(word) | 1 for word in seed.generate_state(4)]
        g4.G4Random.setTheSeeds([*words, 0], len(words))
        self.gun.SetParticleEnergy(self.job["energy"][number] * g4.GeV)
        self.gun.GeneratePrimaryVertex(event)


class _Reader(g4.G4UserEventAction):  # type: ignore[misc]
    """Writes the cells of each finished shower."""

    def __init__(self, shape: tuple[int, int, int], out: BinaryIO) -> None:
        super().__init__()
        self.shape, self.out = shape, out

    def EndOfEventAction(self, event: Any) -> None:  # noqa: N802
        if event.IsAborted():
            raise RuntimeError(f"Geant4 aborted shower {event.GetEventID()}")
        collection = g4.G4SDManager.GetSDMpointer().GetCollectionID(f"{_SCORER}/{_PRIMITIVE}")
        hits = np.array(list(event.GetHCofThisEvent().GetHC(collection)), dtype=np.float64).reshape(-1, 2)
        self.out.write(_cells(hits, self.shape).tobytes())
        self.out.flush()


class _Actions(g4.G4VUserActionInitialization):  # type: ignore[misc]
    def __init__(self, *actions: Any) -> None:
        super().__init__()
        self.actions = actions

    def Build(self) -> None:  # noqa: N802
        for action in self.actions:
            self.SetUserAction(action)


def _cells(hits: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Fill the grid; hits: (layer, x, y) as one number, and energy in MeV, shape (m, 2)."""
    nx, ny, layers = shape
    layer, x, y = np.unravel_index(hits[:, 0].astype(np.intp), (layers, nx, ny))
    cells = np.zeros(shape, dtype=np.float32)
    cells[x, y, layer] = hits[:, 1] / g4.GeV
    return cells


def run(job: dict[str, Any], out: BinaryIO) -> None:
    """Simulate the showers of a job, see `geant4.simulate`, and write them to `out`."""
    detector = Detector.model_validate(job["detector"])
    manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.SerialOnly)
    stack, physics = _Stack(detector, job["field_tesla"]), _Physics()
    manager.SetUserInitialization(stack)
    manager.SetUserInitialization(physics)
    # SetDefaultCutValue has no effect from Python; the command does.
    for command in ("/process/em/verbose 0", f"/run/setCut {job['cut_mm']} mm"):
        g4.G4UImanager.GetUIpointer().ApplyCommand(command)  # returns no status in Python
    actions = _Actions(_Gun(job, detector), _Reader(detector.grid.shape, out))
    manager.SetUserInitialization(actions)
    manager.Initialize()
    manager.BeamOn(len(job["energy"]))


def main() -> None:
    """Run the job from standard input; keep standard output free for the showers, whatever C++ prints."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        run(json.load(sys.stdin), out)


if __name__ == "__main__":
    main()
