"""The stock client of Triton works unmodified over gRPC, and the messages are those of its public protocol."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from stylert.core.seeds import z_from_seeds
from stylert.runtime import Bundle, Generator
from stylert.runtime.serving.kserve.grpc_messages import MESSAGES, SCHEMA
from stylert.runtime.serving.server import ImageServer
from tests.runtime.serving.conftest import running, source


@pytest.fixture(scope="module")
def stock(server: ImageServer) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.grpc_address)
    yield client
    client.close()


def tensor(name: str, values: np.ndarray, datatype: str) -> triton.InferInput:
    result = triton.InferInput(name, list(values.shape), datatype)
    result.set_data_from_numpy(values)
    return result


def official(name: str) -> Any:
    """The descriptor of a message in the protocol of the stock client, where some messages lie in others."""
    protocol = triton.service_pb2
    for owner in (protocol, protocol.ModelInferRequest, protocol.ModelInferResponse, protocol.ModelMetadataResponse,
                  protocol.RepositoryIndexResponse):  # fmt: skip
        if hasattr(owner, name):
            return getattr(owner, name).DESCRIPTOR
    raise AssertionError(name)


@pytest.mark.parametrize("name", [name for name in SCHEMA if not name.startswith("RepositoryModelLoad")])
def test_every_field_has_the_number_and_type_of_the_public_protocol(name: str) -> None:
    ours = {f.name: (f.number, f.type, f.is_repeated) for f in MESSAGES[name].DESCRIPTOR.fields}
    theirs = {f.name: (f.number, f.type, f.is_repeated) for f in official(name).fields}
    assert ours == theirs


def test_the_stock_client_gets_the_generators_images(stock: triton.InferenceServerClient, bundle: Bundle) -> None:
    assert stock.is_server_live()
    assert stock.is_server_ready()
    assert stock.is_model_ready("small.int8")
    assert stock.get_server_metadata().name == "stylert"
    assert [i.name for i in stock.get_model_metadata("small").inputs] == ["seed", "psi", "cutoff", "ws"]
    assert [m.name for m in stock.get_model_repository_index().models] == ["small", "small.int8"]
    inputs = [tensor("seed", np.array([3, 4]), "INT64"), tensor("psi", np.array([0.6], np.float32), "FP32")]
    result = stock.infer("small", inputs, request_id="7")
    with Generator.load(bundle, threads=1) as g:
        expected, ws = g([3, 4], 0.6), g.map(z_from_seeds([3, 4], 24), 0.6)
    assert result.get_response().id == "7"
    assert np.abs(result.as_numpy("image").astype(int) - expected).max() <= 1
    np.testing.assert_allclose(result.as_numpy("ws"), ws, atol=1e-5)


def test_mistakes_have_the_status_that_names_them(stock: triton.InferenceServerClient) -> None:
    for call, status, message in (
        (lambda: stock.get_model_metadata("other"), "NOT_FOUND", "no model"),
        (lambda: stock.infer("small", [tensor("seed", np.array([-1]), "INT64")]), "INVALID_ARGUMENT", "a seed is"),
        (lambda: stock.infer("small", []), "INVALID_ARGUMENT", "seed or ws"),
        (lambda: stock.load_model("small"), "PERMISSION_DENIED", "API key"),
        (lambda: stock.get_model_config("small"), "UNIMPLEMENTED", "not found"),
    ):
        with pytest.raises(InferenceServerException, match=message) as raised:
            call()
        assert status in raised.value.status()


def test_typed_contents_are_read_and_broken_raw_contents_refused(server: ImageServer) -> None:
    channel = grpc.insecure_channel(server.grpc_address)
    infer = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=MESSAGES["ModelInferRequest"].SerializeToString,
        response_deserializer=MESSAGES["ModelInferResponse"].FromString,
    )
    seed = {"name": "seed", "datatype": "INT64", "shape": [1]}
    good = infer(MESSAGES["ModelInferRequest"](model_name="small", inputs=[{**seed, "contents": {"int64_contents": [5]}}]))
    assert list(good.outputs[0].shape) == [1, 16, 16, 3]
    huge = {"name": "ws", "datatype": "FP32", "shape": [0, 2**62, 2**62]}
    for inputs, raw in (
        ([seed], []),
        ([seed], [b"1234567"]),
        ([seed], [b"12345678"] * 2),
        ([seed, seed], [b"12345678"] * 2),
        ([huge], []),
        ([huge], [b""]),
        ([{**seed, "datatype": "FP16"}], []),
        ([{**seed, "datatype": "INT8", "contents": {"int_contents": [200]}}], []),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            infer(MESSAGES["ModelInferRequest"](model_name="small", inputs=inputs, raw_input_contents=raw))
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    channel.close()


def test_bytes_that_are_no_message_are_told_and_read_only_with_the_key(server: ImageServer, bundle: Bundle) -> None:
    def refusal(address: str | None, method: str) -> grpc.RpcError:
        assert address is not None
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"\xff\xff", timeout=60)
        return raised.value

    for method in ("ModelInfer", "ModelMetadata", "ServerLive"):
        refused = refusal(server.grpc_address, method)
        assert (refused.code(), refused.details()) == (grpc.StatusCode.INVALID_ARGUMENT, f"the request is no {method}Request")
    with running([source(bundle)], grpc_port=0, api_key="a long secret") as other:
        assert refusal(other.grpc_address, "ModelInfer").code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_bundle_that_cannot_be_loaded_again_is_a_failed_precondition(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    key = "a long secret"
    with (
        running([source(Bundle.load(folder))], grpc_port=0, api_key=key) as server,
        triton.InferenceServerClient(server.grpc_address) as client,
    ):
        (folder / "synthesis.fp32.onnx").write_bytes(b"damaged")
        with pytest.raises(InferenceServerException, match="the old bundle stays") as raised:
            client.load_model("small", headers={"x-api-key": key})
        assert "FAILED_PRECONDITION" in raised.value.status()
        assert client.is_model_ready("small", headers={"x-api-key": key})


def test_a_key_is_asked_for_and_lets_a_client_reload(bundle: Bundle) -> None:
    with (
        running([source(bundle)], grpc_port=0, api_key="a long secret") as server,
        triton.InferenceServerClient(server.grpc_address) as client,
    ):
        assert client.is_server_ready()
        for headers in ({}, {"authorization": "Bearer wrong"}):
            with pytest.raises(InferenceServerException, match="API key"):
                client.get_model_metadata("small", headers=headers)
        assert client.get_model_metadata("small", headers={"authorization": "Bearer a long secret"}).name == "small"
        client.load_model("small", headers={"x-api-key": "a long secret"})
