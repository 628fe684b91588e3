"""The KServe v2 protocol over gRPC, in the event loop of the server."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from stylert.core.errors import BackendError, InputError, shown
from stylert.runtime.serving.host_work import HostWork
from stylert.runtime.serving.kserve.grpc_messages import MESSAGES, SERVICE
from stylert.runtime.serving.kserve.inference import VERSION, find_model, infer, metadata_of, requested_outputs
from stylert.runtime.serving.kserve.tensors import DATATYPES, TensorFacts, read_raw, read_values
from stylert.runtime.serving.metrics import Metrics
from stylert.runtime.serving.model_store import ModelStore
from stylert.runtime.serving.refusals import Refusal, status_of
from stylert.runtime.serving.settings import ServerSettings

LOG = logging.getLogger("stylert.serving")

#: The status of gRPC for a status of HTTP.
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
#: The field of `InferTensorContents` that holds the values of a data type.
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
#: Methods that need no key.
OPEN_METHODS = ("ServerLive", "ServerReady")

Method = Callable[[Any], Awaitable[Any]]


class GrpcServer:
    """The gRPC side of a server.

    Args:
        store: The models.
        settings: Address, key and limits. `grpc_port` is set.
        metrics: Counts requests.
        work: Reads large requests and makes large answers.
        is_ready: Whether the server takes requests; False while it drains.
    """

    def __init__(
        self, store: ModelStore, settings: ServerSettings, metrics: Metrics, work: HostWork, is_ready: Callable[[], bool]
    ) -> None:
        self._store, self._settings, self._metrics, self._work, self._is_ready = store, settings, metrics, work, is_ready
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        """Accept requests. Raises BackendError if the address cannot be used."""
        settings = self._settings
        options = [("grpc.max_receive_message_length", settings.max_body), ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=settings.max_connections)
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, method),  # gets the bytes, and reads them where a mistake gets its status
                response_serializer=_serialized,
            )
            for name, method in self._methods().items()
        }
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            self.port = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError:
            raise BackendError(f"cannot listen on {host} port {settings.grpc_port}; choose another with --grpc-port") from None
        await self._server.start()

    async def stop(self) -> None:
        """Refuse new requests, and wait for those that run."""
        await self._server.stop(self._settings.drain_seconds)

    def _methods(self) -> dict[str, Method]:
        return {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
        }

    def _guarded(self, name: str, method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
        """A method with key, time-out, count and errors as its status."""

        async def call(data: bytes, context: Any) -> Any:
            begin, status = time.perf_counter(), 200
            try:
                if name not in OPEN_METHODS:
                    self._check_key(dict(context.invocation_metadata() or ()))
                async with asyncio.timeout(self._settings.request_seconds):
                    return await method(_message(f"{name}Request", data))
            except TimeoutError:
                status = 504
                await context.abort(CODES[504], f"there was no answer within {self._settings.request_seconds:g} s")
            except Exception as e:
                status, message, _ = status_of(e)
                if status == 500:
                    LOG.exception("request failed", extra={"facts": {"method": name}})
                await context.abort(CODES.get(status, grpc.StatusCode.INTERNAL), message)
            finally:
                self._metrics.requests.labels(f"grpc/{name}", str(status)).inc()
                self._metrics.request_seconds.labels(f"grpc/{name}").observe(time.perf_counter() - begin)

        return call

    def _check_key(self, metadata: dict[str, Any]) -> None:
        if self._settings.api_key is None:
            return
        given = metadata.get("x-api-key") or str(metadata.get("authorization", "")).removeprefix("Bearer ")
        if not hmac.compare_digest(str(given).encode(), self._settings.api_key.encode()):
            raise Refusal(401, "this server needs an API key: authorization: Bearer KEY")

    async def _live(self, request: Any) -> Any:
        return MESSAGES["ServerLiveResponse"](live=not self._store.hung)

    async def _ready(self, request: Any) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=self._is_ready() and not self._store.hung)

    async def _model_ready(self, request: Any) -> Any:
        model = find_model(self._store, request.name, request.version)
        return MESSAGES["ModelReadyResponse"](ready=self._is_ready() and not model.batcher.is_hung)

    async def _server_metadata(self, request: Any) -> Any:
        return MESSAGES["ServerMetadataResponse"](name="stylert", version=version("stylert"), extensions=["model_repository"])

    async def _model_metadata(self, request: Any) -> Any:
        return MESSAGES["ModelMetadataResponse"](**metadata_of(find_model(self._store, request.name, request.version)))

    async def _index(self, request: Any) -> Any:
        models = [{"name": model.name, "version": VERSION, "state": "READY"} for model in self._store.models]
        return MESSAGES["RepositoryIndexResponse"](models=models)

    async def _load(self, request: Any) -> Any:
        if self._settings.api_key is None:
            raise Refusal(403, "reloading by a request needs a server with an API key; send SIGHUP to the process")
        find_model(self._store, request.model_name)
        await self._store.reload(request.model_name.partition(".")[0])
        return MESSAGES["RepositoryModelLoadResponse"]()

    async def _model_infer(self, request: Any) -> Any:
        model = find_model(self._store, request.model_name, request.model_version)
        outputs = requested_outputs(model, [output.name for output in request.outputs])
        tensors = await self._work.run_if_large(request.ByteSize(), _tensors, request)
        results = await infer(model, tensors, outputs, self._settings)
        size = sum(row.nbytes for rows in results.values() for row in rows)
        return await self._work.run_if_large(size, _infer_answer, model.name, request.id, outputs, results)


def _message(kind: str, data: bytes) -> Any:
    try:
        return MESSAGES[kind].FromString(data)
    except DecodeError:
        raise InputError(f"the request is no {kind}") from None


def _infer_answer(model: str, id: str, outputs: Sequence[TensorFacts], results: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    """The bytes of the answer to an inference."""
    described, contents = [], []
    for tensor in outputs:
        rows = [np.ascontiguousarray(row, DATATYPES[tensor.datatype]) for row in results[tensor.name]]
        described.append({"name": tensor.name, "datatype": tensor.datatype, "shape": (len(rows), *rows[0].shape)})
        contents.append(b"".join(row.data for row in rows))
    answer = MESSAGES["ModelInferResponse"](
        model_name=model, model_version=VERSION, id=id, outputs=described, raw_output_contents=contents
    )
    return answer.SerializeToString()


def _serialized(answer: Any) -> bytes:
    """The bytes of an answer: a message, or bytes that were made in another thread."""
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _tensors(request: Any) -> dict[str, np.ndarray]:
    """The inputs of a request by name, from raw bytes for all or from typed contents for all."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"there are raw contents for {len(raw)} of {len(request.inputs)} inputs")
    tensors: dict[str, np.ndarray] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in tensors:
            raise InputError(f"input {shown(tensor.name)} is there twice")
        if "shared_memory_region" in tensor.parameters:
            raise InputError("this server has no shared_memory_region")
        if raw:
            tensors[tensor.name] = read_raw(tensor.name, tensor.datatype, list(tensor.shape), raw[index])
        else:
            field = CONTENTS.get(tensor.datatype)
            values = [] if field is None else list(getattr(tensor.contents, field))
            tensors[tensor.name] = read_values(tensor.name, tensor.datatype, list(tensor.shape), values)
    return tensors
