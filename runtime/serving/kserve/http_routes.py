"""The KServe v2 protocol over HTTP, with the binary tensor extension and the index and load requests of Triton's repository.

A body with binary tensors is a JSON document followed by the bytes of its tensors, in their order. The header
`Inference-Header-Content-Length` has the length of the document.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
from fastapi import APIRouter, Request, Response

from stylert.core.errors import InputError, shown
from stylert.core.files.json_documents import read_document
from stylert.runtime.serving.host_work import HostWork
from stylert.runtime.serving.kserve.answers import infer_answer
from stylert.runtime.serving.kserve.inference import (
    PLATFORM,
    VERSION,
    find_model,
    infer,
    inputs_of,
    metadata_of,
    outputs_of,
    requested_outputs,
)
from stylert.runtime.serving.kserve.tensors import TensorFacts, read_json, read_raw
from stylert.runtime.serving.model_store import ModelStore, ServedModel
from stylert.runtime.serving.refusals import Refusal, error_body
from stylert.runtime.serving.request_headers import INFERENCE_LENGTH, inference_length
from stylert.runtime.serving.request_limits import check_marks
from stylert.runtime.serving.settings import ServerSettings

EXTENSIONS = ["binary_tensor_data", "model_repository", "model_configuration"]
#: Parameters of Triton that would change the meaning of a request, and that this server does not follow.
UNSUPPORTED = ("shared_memory_region", "classification")


class TensorIn(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()  # read later, as the type that the tensor has


class OutputWanted(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    inputs: list[TensorIn]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[OutputWanted] = []


def kserve_routes(store: ModelStore, settings: ServerSettings, work: HostWork, is_ready: Callable[[], bool]) -> APIRouter:
    """The routes of the protocol.

    Args:
        store: The models.
        settings: Limits of a request, and the key.
        work: Reads large bodies and makes large answers.
        is_ready: Whether the server takes requests; False while it drains.
    """
    router = APIRouter(prefix="/v2", tags=["KServe v2"])

    def named(name: str, request: Request) -> ServedModel:
        """The model of a name, and of the version that the path may have."""
        return find_model(store, name, request.path_params.get("version", ""))

    @router.get(
        "/health/live",
        response_class=Response,
        summary="Liveness; fails while a network hangs, since only a new process cures it",
    )
    async def live() -> Response:
        return _health(store.hung, True)

    @router.get("/health/ready", response_class=Response, summary="Readiness; fails while the server drains or a network hangs")
    async def ready() -> Response:
        return _health(store.hung, is_ready())

    @router.get("", summary="Facts about the server")
    async def server_metadata() -> Response:
        return _json({"name": "stylert", "version": version("stylert"), "extensions": EXTENSIONS})

    @router.get("/models/{name}/ready", response_class=Response, summary="Readiness of a model")
    @router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
    async def model_ready(name: str, request: Request) -> Response:
        model = named(name, request)
        return _health([model.name] if model.batcher.is_hung else [], is_ready())

    @router.get("/models/{name}", summary="Inputs and outputs of a model")
    @router.get("/models/{name}/versions/{version}", include_in_schema=False)
    async def model_metadata(name: str, request: Request) -> Response:
        return _json(metadata_of(named(name, request)))

    @router.get("/models/{name}/config", summary="Configuration of a model, as Triton names it")
    @router.get("/models/{name}/versions/{version}/config", include_in_schema=False)
    async def model_config(name: str, request: Request) -> Response:
        model = named(name, request)
        return _json(
            {
                "name": model.name,
                "platform": PLATFORM,
                "backend": model.generator.backend,
                "max_batch_size": settings.max_images,
                "input": [{**_config(tensor), "optional": True} for tensor in inputs_of(model)],
                "output": [_config(tensor) for tensor in outputs_of(model)],
                "dynamic_batching": {
                    "preferred_batch_size": [settings.max_batch],
                    "max_queue_delay_microseconds": int(1000 * settings.max_delay_ms),
                },
            }
        )

    @router.post("/models/{name}/infer", summary="Run a model", openapi_extra=_BODY)
    @router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
    async def model_infer(name: str, request: Request) -> Response:
        model = named(name, request)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal(415, "compressed requests are not read; send them without compression")
        body = await request.body()
        length = inference_length(request.headers.get(INFERENCE_LENGTH), len(body))
        document, tensors = await work.run_if_large(len(body), _read, body, length, settings.max_body)
        outputs = requested_outputs(model, [output.name for output in document.outputs])
        results = await infer(model, tensors, outputs, settings)
        by_default = document.parameters.get("binary_data_output", False)
        wanted = {output.name: output.parameters.get("binary_data", by_default) for output in document.outputs}
        binary = frozenset(tensor.name for tensor in outputs if wanted.get(tensor.name, by_default) is True)
        own = {"model_name": model.name, "model_version": VERSION, **({"id": document.id} if document.id is not None else {})}
        # The text of a float takes about twenty bytes. Pixels become text as they are sent, and bytes are not copied.
        text = sum(20 * results[t.name][0].size * len(results[t.name]) for t in outputs if t.datatype == "FP32")
        return await work.run_if_large(text, infer_answer, own, outputs, results, binary)

    @router.post("/repository/index", summary="The served models")
    async def index() -> Response:
        return _json([{"name": model.name, "version": VERSION, "state": "READY", "reason": ""} for model in store.models])

    @router.post("/repository/models/{name}/load", response_class=Response, summary="Read a bundle again")
    async def load(name: str) -> Response:
        """Read the bundle of a model again, without losing a request. It needs a server with an API key."""
        if settings.api_key is None:
            raise Refusal(403, "reloading by a request needs a server with an API key; send SIGHUP to the process")
        find_model(store, name)
        await store.reload(name.partition(".")[0])
        return Response()

    @router.post("/repository/models/{name}/unload", include_in_schema=False)
    async def unload(name: str) -> Response:
        raise Refusal(400, "this server keeps its bundles; stop it to unload them")

    return router


_BODY = {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}, "application/octet-stream": {}}}}


def _read(body: bytes, length: int, max_body: int) -> tuple[InferRequest, dict[str, np.ndarray]]:
    """The document of a request, which has the first `length` bytes of the body, and its tensors by name."""
    check_marks(body[:length])
    document = read_document(body[:length], InferRequest, "the request", InputError, max_body)
    rest, tensors = memoryview(body)[length:], {}
    for tensor in document.inputs:
        if tensor.name in tensors:
            raise InputError(f"input {shown(tensor.name)} is there twice")
        _refuse_unsupported(tensor.parameters)
        size, data = tensor.parameters.get("binary_data_size"), bytes(tensor.data)
        if size is None:
            tensors[tensor.name] = read_json(tensor.name, tensor.datatype, tensor.shape, data)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest) or data:
            raise InputError(f"input {shown(tensor.name)} names {shown(size)} of the {len(rest)} bytes that follow")
        tensors[tensor.name] = read_raw(tensor.name, tensor.datatype, tensor.shape, rest[:size])
        rest = rest[size:]
    if len(rest):
        raise InputError(f"{len(rest)} bytes follow the last tensor")
    for output in document.outputs:
        _refuse_unsupported(output.parameters)
    return document, tensors


def _refuse_unsupported(parameters: dict[str, Any]) -> None:
    for name in UNSUPPORTED:
        if parameters.get(name):
            raise InputError(f"this server has no {name}")


def _health(hung: list[str], is_ready: bool) -> Response:
    """The answer of a probe, which names the models whose network hangs."""
    if hung:
        body = error_body(f"the network of {', '.join(hung)} does not return; start the server again")
        return Response(body, 503, media_type="application/json")
    return Response(status_code=200 if is_ready else 503)


def _config(tensor: TensorFacts) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": f"TYPE_{tensor.datatype}", "dims": tensor.shape[1:] or (1,)}


def _json(document: Any) -> Response:
    return Response(msgspec.json.encode(document), media_type="application/json")
