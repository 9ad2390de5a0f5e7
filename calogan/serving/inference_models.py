"""The models of the Open Inference Protocol, their tensors, and orders made of them; over REST and over gRPC alike."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from pydantic import ValidationError

from calogan.errors import ModelError, RequestError, problems
from calogan.geometry import CLIC
from calogan.serving.drawing import Sampler
from calogan.serving.orders import ListOrder

DTYPES = {"FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "INT64": "<i8", "UINT32": "<u4", "UINT64": "<u8"}
INPUTS: dict[str, tuple[str, ...]] = {
    "energy": ("FP32", "FP64"),
    "seed": ("INT64", "UINT64", "INT32", "UINT32"),
    "first": ("INT64", "UINT64", "INT32", "UINT32"),
}
SHAPES = {"energy": [-1], "seed": [1], "first": [1]}  # -1 for the number of showers
OUTPUT, OUTPUT_SHAPE = "showers", [-1, *CLIC.shape]


def models_of(samplers: Mapping[str, Sampler]) -> dict[str, Sampler]:
    """The models, by their names in the protocol."""
    return {f"{sampler.name}-{name}": sampler for name, sampler in samplers.items()}


def find_model(models: Mapping[str, Sampler], name: str, version: str) -> Sampler:
    """Find a model.

    Raises:
        ModelError: it is not served, or not in this version.
    """
    if name not in models:
        raise ModelError(f"model {name[:80]!r} is not served here; choose from {', '.join(models)}")
    if version and version != models[name].version:
        raise ModelError(f"version {version[:80]!r} of {name} is not served here, but {models[name].version}")
    return models[name]


def order_of(parameters: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], sampler: Sampler) -> ListOrder:
    """Make an order of the inputs, with `seed` and `first` from the parameters if they are no inputs.

    Raises:
        RequestError: the energies are missing, or something is impossible.
    """
    if "energy" not in tensors:
        raise RequestError("the input energy is missing")
    content: dict[str, Any] = {"energies": tensors["energy"].tolist(), "precision": sampler.precision}
    for name in ("seed", "first"):
        if name in tensors:
            if len(tensors[name]) != 1:
                raise RequestError(f"{name} has {len(tensors[name])} numbers; expected one")
            content[name] = tensors[name].tolist()[0]
        elif name in parameters:
            content[name] = parameters[name]
    try:
        return ListOrder.model_validate(content)
    except ValidationError as error:
        raise RequestError(problems(error)[:400]) from None
