"""Export one precision of a model for programs without this package, as a TensorFlow SavedModel or ONNX.

An export turns energies and random numbers into showers in GeV. It is compared with the model before it gets its
final name, so an export that computes different showers never appears.
"""

import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calogan.errors import ModelError, RequestError
from calogan.exporting import saved_model
from calogan.exporting.base import Source, compute_showers, draw_inputs, open_source
from calogan.generation import model_folder
from calogan.geometry import CLIC

FORMATS = ("savedmodel", "onnx")
_ONNX_PACKAGES = ("onnx", "onnxruntime")
_SHOWERS, _SEED = 16, 0  # of the comparison with the model
# Average share of a shower's energy that may lie in other cells. In int8, rounding differs by a step here and there,
# which later layers amplify; int8 itself moves about as much.
_LIMITS = {"float32": 1e-4, "float16": 1e-4, "bfloat16": 1e-2, "int8": 1e-2}


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        path: folder of a SavedModel, or ONNX file.
        difference: sum over the cells of the absolute difference from the model, as a share of the shower's energy, for
            each shower of the comparison, shape (n,).
        limit: largest allowed mean of `difference`.
    """

    path: Path
    difference: NDArray[np.float64]
    limit: float


def export(model: str | os.PathLike[str], precision: str, format: str, target: Path, *, batch: int = 1) -> Export:
    """Write one precision of a model in another format; a failure leaves no files behind.

    Args:
        model: packaged name or folder; it must include its weights.
        precision: a precision of the model; for ONNX float32 or int8.
        format: one of `FORMATS`.
        target: folder of the SavedModel, which must not exist, or ONNX file.
        batch: showers in each call of an ONNX file; a SavedModel takes any number.

    Raises:
        ModelError: there is no such model or precision, a package is not installed, a part of the model cannot be
            exported, or the export computes different showers.
        RequestError: there is no such format, or the target cannot be written.
    """
    if format not in FORMATS:
        raise RequestError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}")
    gaps = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None] if format == "onnx" else []
    if gaps:
        raise ModelError(f"ONNX export needs {', '.join(gaps)}, not installed here; pip install 'calogan[peers]'")
    if target.is_dir() or (format == "savedmodel" and target.exists()):
        raise RequestError(f"{target}: already exists; choose another path or remove it first")
    source = open_source(model_folder.find(model), precision)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            path = Path(scratch) / "export"
            difference = _write(source, format, path, batch)
            limit = _LIMITS[precision]
            if not difference.mean() <= limit:  # not `>`, which would accept NaN
                raise ModelError(
                    f"{source.name} as {format} computes other showers than the model: {100 * difference.mean():.2g} % of "
                    f"their energy lies in other cells, at most {100 * limit:g} % allowed; "
                    "export another precision or format"
                )
            path.replace(target)
    except OSError as error:
        raise RequestError(f"{target}: cannot be written ({error})") from error
    return Export(target, difference, limit)


def _write(source: Source, format: str, path: Path, batch: int) -> NDArray[np.float64]:
    """Write an export and compare it with the model; returns `Export.difference`, the worst over all ways to run it."""
    inputs = draw_inputs(source.description, -(-_SHOWERS // batch) * batch, _SEED)
    expected = compute_showers(source, inputs)
    if format == "savedmodel":
        saved_model.write(source, path)
        results = [saved_model.run(path, inputs)]
    else:
        # Imported here: the packages may not be installed.
        from calogan.exporting import onnx_model  # noqa: PLC0415

        onnx_model.write(source, path, batch=batch)
        results = [onnx_model.run(path, inputs, optimised=optimised) for optimised in (False, True)]
    energy = np.maximum(expected.sum(axis=(1, 2, 3), dtype=np.float64), CLIC.threshold_gev)
    difference = [np.abs(showers - expected).sum(axis=(1, 2, 3), dtype=np.float64) / energy for showers in results]
    worst: NDArray[np.float64] = np.max(difference, axis=0)
    return worst
