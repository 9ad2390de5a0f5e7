"""The Open Inference Protocol, version 2, over gRPC: what Triton's clients, and with them SONIC and AthenaTriton, speak.

Models, inputs and outputs are those of `inference_protocol`. The messages are those of `tritonclient`, which the extra
`grpc` installs. The key is in the metadata `authorization: Bearer KEY` or `x-api-key: KEY`.
"""

import copyreg
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from calogan import __version__
from calogan.errors import CaloganError, ConfigError, RequestError, ServiceError
from calogan.geometry import CLIC
from calogan.serving.answers import UnauthorizedError, fit_id
from calogan.serving.encodings import Encoding
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

_log = logging.getLogger(__name__)
SERVICER = "calogan.serving.grpc_service.add_servicer"  # in `grpc_options` of Ray Serve
METHODS = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelConfig",
    "RepositoryIndex",
    "ModelInfer",
)
# A response is one message, in the memory of both ends.
_ENCODING = Encoding("application/grpc", ".bin", max_showers=1_000)
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_FIELDS = {  # of `InferTensorContents`
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
}
_MODEL_CONFIG_TYPES = {"FP32": 11, "INT64": 9}


class InferenceService:
    """Answers the requests of the protocol, whoever carries them."""

    def __init__(self, endpoint: Endpoint, check_ready: Callable[[], None]) -> None:
        """Prepare the service.

        Args:
            endpoint: what answers requests for showers.
            check_ready: raises an error if the endpoint is not ready.

        Raises:
            ConfigError: the messages of the protocol are not installed.
        """
        try:
            from tritonclient.grpc import model_config_pb2, service_pb2  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ConfigError("gRPC needs the extra grpc: pip install 'calogan[grpc]'") from error
        self._messages, self._config_messages = service_pb2, model_config_pb2
        self._endpoint, self._check_ready = endpoint, check_ready
        self._models = models_of(endpoint.samplers)
        self._handlers: dict[str, Callable[[Any, Mapping[str, Any]], Awaitable[Any]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "RepositoryIndex": self._index,
            "ModelInfer": self._infer,
        }

    async def answer(self, method: str, request: Any, metadata: Mapping[str, Any]) -> tuple[Any, Exception | None]:
        """Answer a request.

        Args:
            method: one of `METHODS`.
            request: its message.
            metadata: of the call.

        Returns:
            The message of the answer, and None; or an empty message, and the error to tell, see `status`.
        """
        try:
            return await self._handlers[method](request, metadata), None
        except CaloganError as error:
            return getattr(self._messages, f"{method}Response")(), error
        except Exception:  # noqa: BLE001 - its message is for the log only
            _log.exception("a %s over gRPC failed", method)
            return getattr(self._messages, f"{method}Response")(), CaloganError("the server failed; its log says why")

    async def _live(self, _: Any, __: Mapping[str, Any]) -> Any:
        return self._messages.ServerLiveResponse(live=True)

    async def _ready(self, _: Any, __: Mapping[str, Any]) -> Any:
        return self._messages.ServerReadyResponse(ready=self._is_ready())

    async def _server(self, _: Any, metadata: Mapping[str, Any]) -> Any:
        self._holder(metadata)
        return self._messages.ServerMetadataResponse(name="calogan", version=__version__)

    async def _model_ready(self, request: Any, metadata: Mapping[str, Any]) -> Any:
        self._holder(metadata)
        find_model(self._models, request.name, request.version)
        return self._messages.ModelReadyResponse(ready=self._is_ready())

    async def _metadata(self, request: Any, metadata: Mapping[str, Any]) -> Any:
        self._holder(metadata)
        sampler = find_model(self._models, request.name, request.version)
        answer = self._messages.ModelMetadataResponse
        return answer(
            name=request.name,
            versions=[sampler.version],
            platform="calogan",
            inputs=[
                answer.TensorMetadata(name=name, datatype=types[0], shape=SHAPES[name])
                for name, types in INPUTS.items()
            ],
            outputs=[answer.TensorMetadata(name=OUTPUT, datatype="FP32", shape=OUTPUT_SHAPE)],
        )

    async def _config(self, request: Any, metadata: Mapping[str, Any]) -> Any:
        self._holder(metadata)
        find_model(self._models, request.name, request.version)
        messages = self._config_messages
        inputs = [
            messages.ModelInput(
                name=name, data_type=_MODEL_CONFIG_TYPES[types[0]], dims=SHAPES[name], optional=name != "energy"
            )
            for name, types in INPUTS.items()
        ]
        outputs = [messages.ModelOutput(name=OUTPUT, data_type=_MODEL_CONFIG_TYPES["FP32"], dims=OUTPUT_SHAPE)]
        config = messages.ModelConfig(name=request.name, platform="calogan", input=inputs, output=outputs)
        return self._messages.ModelConfigResponse(config=config)

    async def _index(self, _: Any, metadata: Mapping[str, Any]) -> Any:
        self._holder(metadata)
        answer = self._messages.RepositoryIndexResponse
        state = "READY" if self._is_ready() else "UNAVAILABLE"
        return answer(
            models=[
                answer.ModelIndex(name=name, version=sampler.version, state=state)
                for name, sampler in self._models.items()
            ]
        )

    async def _infer(self, request: Any, metadata: Mapping[str, Any]) -> Any:
        holder = self._holder(metadata)
        sampler = find_model(self._models, request.model_name, request.model_version)
        if any(output.name != OUTPUT for output in request.outputs):
            raise RequestError("an output is unknown; expected showers")
        parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice") or "int64_param")
            for name, value in request.parameters.items()
        }
        order = order_of(parameters, _tensors(request), sampler)
        seed = self._endpoint.seed(order)
        self._endpoint.admit(order, holder, _ENCODING)
        name = fit_id(str(metadata.get("x-request-id", "")))
        await self._endpoint.take_place()
        try:
            hits = await self._endpoint.draw(order, _ENCODING, holder.name, seed=seed, name=name)
        finally:
            self._endpoint.give_place_back()
        answer = self._messages.ModelInferResponse(
            model_name=request.model_name, model_version=sampler.version, id=request.id
        )
        answer.parameters["seed"].int64_param = seed
        answer.outputs.add(name=OUTPUT, datatype="FP32", shape=[order.count, *CLIC.shape])
        answer.raw_output_contents.append(hits.to_dense().showers.astype("<f4", copy=False).tobytes())
        return answer

    def _is_ready(self) -> bool:
        try:
            self._check_ready()
        except ServiceError:
            return False
        return True

    def _holder(self, metadata: Mapping[str, Any]) -> KeyHolder:
        bearer = str(metadata.get("authorization", ""))
        key = str(metadata.get("x-api-key", "")) or bearer.removeprefix("Bearer ").removeprefix("bearer ")
        if not key:
            raise UnauthorizedError("a key is needed: send the metadata authorization: Bearer KEY, or x-api-key: KEY")
        holder = self._endpoint.keys.find(key.encode())
        if holder is None:
            raise UnauthorizedError("the key is wrong for this endpoint; ask its operator")
        return holder


def status(error: Exception) -> grpc.StatusCode:
    """Status of an error that `InferenceService.answer` returned."""
    return _CODES.get(getattr(error, "http_status", 500), grpc.StatusCode.INTERNAL)


async def start_server(service: InferenceService, address: str) -> tuple[grpc.aio.Server, int]:
    """Start a server in this event loop.

    Args:
        service: what it serves.
        address: HOST:PORT; port 0 for a free one.

    Returns:
        The server, and its port.

    Raises:
        RequestError: it cannot listen there.
    """
    from tritonclient.grpc import service_pb2_grpc  # noqa: PLC0415 - an extra

    methods = {name: _method(service, name) for name in METHODS}
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    servicer = type("Servicer", (service_pb2_grpc.GRPCInferenceServiceServicer,), methods)()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise RequestError(f"gRPC cannot listen at {address} ({error}); give another --grpc-port") from error
    await server.start()
    return server, port


def add_servicer(servicer: Any, server: Any) -> None:
    """Add the methods of the protocol to Ray's gRPC proxy, which sends the messages on to replicas."""
    from tritonclient.grpc import service_pb2, service_pb2_grpc  # noqa: PLC0415 - an extra

    # The classes name a module that does not exist, so that Ray could not send them as they are.
    for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        copyreg.pickle(getattr(service_pb2, method.input_type.name), _reduced)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)


def _reduced(message: Any) -> tuple[Callable[[str, bytes], Any], tuple[str, bytes]]:
    return restored, (message.DESCRIPTOR.name, message.SerializeToString())


def restored(name: str, content: bytes) -> Any:
    """Make a message of the protocol from its bytes."""
    from tritonclient.grpc import service_pb2  # noqa: PLC0415 - an extra

    return getattr(service_pb2, name).FromString(content)


def _method(service: InferenceService, name: str) -> Any:
    async def call(_: Any, request: Any, context: Any) -> Any:
        metadata = dict(context.invocation_metadata() or ())
        answer, error = await service.answer(name, request, metadata)
        if error:
            await context.abort(status(error), str(error))
        return answer

    return call


def _tensors(request: Any) -> dict[str, NDArray[Any]]:
    """Numbers of the inputs, each of one dimension; from the raw contents, if there are any."""
    tensors: dict[str, NDArray[Any]] = {}
    raw: Sequence[bytes] = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"{len(request.inputs)} inputs have {len(raw)} raw contents; expected one for each")
    for number, tensor in enumerate(request.inputs):
        if tensor.name not in INPUTS or tensor.name in tensors:
            raise RequestError(f"input {tensor.name[:80]!r} is unknown or given twice; expected {', '.join(INPUTS)}")
        if tensor.datatype not in INPUTS[tensor.name]:
            raise RequestError(
                f"{tensor.name} has datatype {tensor.datatype[:20]!r}; expected {INPUTS[tensor.name][0]}"
            )
        dtype = np.dtype(DTYPES[tensor.datatype])
        if raw:
            if len(raw[number]) % dtype.itemsize:
                raise RequestError(f"{tensor.name}: {len(raw[number])} bytes are no whole number of {tensor.datatype}")
            values = np.frombuffer(raw[number], dtype)
        else:
            values = np.array(getattr(tensor.contents, _FIELDS[tensor.datatype]), dtype)
        shape = list(tensor.shape)
        if not 1 <= len(shape) <= 2 or min(shape) < 0 or len(values) != np.prod(shape, dtype=object):
            raise RequestError(f"{tensor.name}: {len(values)} numbers do not have shape {shape[:5]}")
        tensors[tensor.name] = values
    return tensors
