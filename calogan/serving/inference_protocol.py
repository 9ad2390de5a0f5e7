"""The Open Inference Protocol, version 2, over REST with its binary tensors: what Triton's clients speak.

A generator is the model `NAME-PRECISION`. Its inputs are `energy` (FP32, GeV, one number for each shower) and, if wanted,
`seed` and `first` (one integer each); its output is `showers` (FP32, shape (n, 25, 25, 25), GeV).
https://github.com/open-inference-protocol/open-inference-protocol, and for binary tensors
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calogan import __version__
from calogan.errors import RequestError, problems
from calogan.events import Hits
from calogan.geometry import CELLS, CLIC
from calogan.serving.drawing import Sampler
from calogan.serving.encodings import Encoding, RawWriter
from calogan.serving.endpoint import Endpoint
from calogan.serving.inference_models import (
    DTYPES,
    INPUTS,
    OUTPUT,
    OUTPUT_SHAPE,
    SHAPES,
    find_model,
    models_of,
    order_of,
)
from calogan.serving.keys import KeyHolder

_LENGTH = "Inference-Header-Content-Length"
_MAX_IN_JSON, _MAX_BINARY = 100, 10_000  # showers
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": "Error",
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
            }
        },
    }
    for status in (401, 404, 405, 408, 413, 415, 422, 429, 500, 503)
}
_Name = Annotated[str, Path(description="Name of a model, such as calogan-lean-int8.")]
_Record = TypeVar("_Record", bound=BaseModel)


class _Tensor(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str = Field(max_length=100)
    parameters: dict[str, Any] = {}


class _Input(_Tensor):
    datatype: str = Field(max_length=20)
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=2)]
    data: list[Any] | None = None


class _Inference(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str | None = Field(None, max_length=200)
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[_Input], Field(min_length=1, max_length=3)]
    outputs: Annotated[list[_Tensor], Field(max_length=1)] | None = None


class ServerMetadata(BaseModel):
    """What answers here."""

    name: str = "calogan"
    version: str = __version__
    extensions: list[str] = ["binary_tensor_data"]


class TensorMetadata(BaseModel):
    """One input or output of a model; -1 for any number of showers."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """Inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: Literal["calogan"] = "calogan"
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


def add_inference_protocol(
    api: FastAPI, endpoint: Endpoint, check_key: Callable[..., Any], check_ready: Callable[[], None]
) -> None:
    """Add the routes under /v2."""
    models = models_of(endpoint.samplers)
    protected = APIRouter(
        prefix="/v2", dependencies=[Depends(check_key)], responses=_ERRORS, tags=["Open Inference Protocol"]
    )
    _add_health(api, protected, check_ready)
    for prefix in ("/models/{name}", "/models/{name}/versions/{version}"):
        _add_model(protected, prefix, models)
        _add_inference(protected, prefix, models, endpoint, check_key)
    api.include_router(protected)


def _add_health(api: FastAPI, protected: APIRouter, check_ready: Callable[[], None]) -> None:
    @api.get("/v2/health/live", tags=["Open Inference Protocol"])
    async def live() -> dict[str, bool]:
        """Report that the process is alive; needs no key."""
        return {"live": True}

    @api.get("/v2/health/ready", tags=["Open Inference Protocol"], responses={503: _ERRORS[503]})
    async def ready() -> dict[str, bool]:
        """Report whether the golden request is answered as at the start; needs no key."""
        check_ready()
        return {"ready": True}

    @protected.get("")
    async def server() -> ServerMetadata:
        """Describe the server."""
        return ServerMetadata()


def _add_model(router: APIRouter, prefix: str, models: Mapping[str, Sampler]) -> None:
    @router.get(prefix)
    async def metadata(name: _Name, version: str = "") -> ModelMetadata:
        """Describe the inputs and outputs of a model."""
        sampler = find_model(models, name, version)
        return ModelMetadata(
            name=name,
            versions=[sampler.version],
            inputs=[
                TensorMetadata(name=tensor, datatype=types[0], shape=SHAPES[tensor]) for tensor, types in INPUTS.items()
            ],
            outputs=[TensorMetadata(name=OUTPUT, datatype="FP32", shape=OUTPUT_SHAPE)],
        )

    @router.get(f"{prefix}/ready")
    async def model_ready(name: _Name, version: str = "") -> dict[str, Any]:
        """Report that a model is served."""
        find_model(models, name, version)
        return {"name": name, "ready": True}


def _add_inference(
    router: APIRouter, prefix: str, models: Mapping[str, Sampler], endpoint: Endpoint, check_key: Callable[..., Any]
) -> None:
    body = {"schema": _inlined(_Inference.model_json_schema()), "examples": {"two showers": {"value": _EXAMPLE}}}

    @router.post(
        f"{prefix}/infer",
        response_class=Response,
        responses={200: _ANSWER},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": body}}},
    )
    async def infer(
        request: Request, holder: Annotated[KeyHolder, Depends(check_key)], name: _Name, version: str = ""
    ) -> Response:
        """Draw one shower for each energy."""
        sampler = find_model(models, name, version)
        head, tail = _divided(await endpoint.read_body(request), request.headers.get(_LENGTH))
        inference = _parsed(_Inference, head)
        order = order_of(inference.parameters, _tensors(inference, tail), sampler)
        binary = _wants_binary(inference)
        if order.count > (limit := _MAX_BINARY if binary else _MAX_IN_JSON):
            raise RequestError(
                f"{order.count} showers are more than the {limit} allowed here"
                + ("; use POST /v1/showers" if binary else "; ask for binary tensors")
            )
        seed = endpoint.seed(order)
        output: dict[str, Any] = {"name": "showers", "datatype": "FP32", "shape": [order.count, *CLIC.shape]}
        answer: dict[str, Any] = {"model_name": name, "model_version": sampler.version, "parameters": {"seed": seed}}
        answer |= {"id": inference.id} if inference.id is not None else {}
        encoding, headers = (_binary if binary else _in_json)(answer, output, order.count)
        endpoint.admit(order, holder, encoding)
        return endpoint.respond(request, order, encoding, holder.name, seed=seed, headers=headers)


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a record without references, which would point out of an OpenAPI document."""
    parts = schema.pop("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolve(parts[value["$ref"].rsplit("/", 1)[1]])
            return {key: resolve(each) for key, each in value.items()}
        return [resolve(each) for each in value] if isinstance(value, list) else value

    return dict(resolve(schema))


_EXAMPLE = {"inputs": [{"name": "energy", "datatype": "FP32", "shape": [2], "data": [50.0, 200.0]}]}
_ANSWER = {
    "description": "The showers: in JSON, or behind it if binary tensors were asked for.",
    "content": {
        "application/json": {"schema": {"type": "object"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
    "headers": {_LENGTH: {"schema": {"type": "string"}}},
}


def _divided(body: bytes, length: str | None) -> tuple[bytes, bytes]:
    """Divide a body into its JSON and its binary tensors."""
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdecimal() and int(length[:12]) <= len(body)):
        raise RequestError(f"{_LENGTH} is {length[:20]!r}; expected the number of bytes of the JSON")
    return body[: int(length[:12])], body[int(length[:12]) :]


def _parsed(record: type[_Record], text: bytes) -> _Record:
    try:
        return record.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise RequestError(problems(error)[:400].replace("\n", " ")) from None


def _tensors(inference: _Inference, tail: bytes) -> dict[str, NDArray[Any]]:
    """Numbers of the inputs, each of one dimension; binary ones follow each other in the order of the inputs."""
    tensors: dict[str, NDArray[Any]] = {}
    for tensor in inference.inputs:
        if tensor.name not in INPUTS or tensor.name in tensors:
            raise RequestError(f"input {tensor.name!r} is unknown or given twice; expected {', '.join(INPUTS)}")
        if tensor.datatype not in INPUTS[tensor.name]:
            raise RequestError(f"{tensor.name} has datatype {tensor.datatype!r}; expected {INPUTS[tensor.name][0]}")
        dtype, size = np.dtype(DTYPES[tensor.datatype]), tensor.parameters.get("binary_data_size")
        count = math.prod(tensor.shape)
        if size is not None:
            if size != count * dtype.itemsize or size > len(tail) or tensor.data is not None:
                raise RequestError(f"{tensor.name}: {size!r} bytes are not those of shape {tensor.shape}")
            tensors[tensor.name] = np.frombuffer(tail[:size], dtype)
            tail = tail[size:]
            continue
        try:
            tensors[tensor.name] = np.asarray(tensor.data, dtype=np.float64 if dtype.kind == "f" else object).ravel()
        except (TypeError, ValueError):
            raise RequestError(f"{tensor.name}: data are not numbers") from None
        if len(tensors[tensor.name]) != count:
            raise RequestError(f"{tensor.name}: {len(tensors[tensor.name])} numbers do not have shape {tensor.shape}")
    if tail:
        raise RequestError(f"{len(tail)} bytes follow the last input; expected none")
    return tensors


def _wants_binary(inference: _Inference) -> bool:
    asked = inference.parameters.get("binary_data_output", False)
    for output in inference.outputs or []:
        if output.name != "showers":
            raise RequestError(f"output {output.name!r} is unknown; expected showers")
        asked = output.parameters.get("binary_data", asked)
    return asked is True


def _binary(answer: dict[str, Any], output: dict[str, Any], count: int) -> tuple[Encoding, dict[str, str]]:
    """The encoding of a response with binary tensors, and its headers."""
    output["parameters"] = {"binary_data_size": count * CELLS * 4}
    head = json.dumps(answer | {"outputs": [output]}).encode()
    encoding = Encoding(
        "application/octet-stream", ".bin", writer=lambda _: RawWriter("<f4", head), dtype="<f4", head=head
    )
    return encoding, {_LENGTH: str(len(head))}


def _in_json(answer: dict[str, Any], output: dict[str, Any], _: int) -> tuple[Encoding, dict[str, str]]:
    """The encoding of a response in JSON, and its headers."""

    def fill(parts: Iterable[Hits], _: Mapping[str, str], file: IO[bytes]) -> None:
        data = Hits.concatenate(list(parts)).to_dense().showers.ravel().tolist()
        file.write(json.dumps(answer | {"outputs": [output | {"data": data}]}, allow_nan=False).encode())

    return Encoding("application/json", ".json", fill=fill), {}
