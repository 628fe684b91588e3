"""The stock client of Triton works unmodified, over HTTP, and broken requests are refused in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from stylert.core.seeds import z_from_seeds
from stylert.runtime import Bundle, Generator
from stylert.runtime.serving.kserve.tensors import DATATYPES
from stylert.runtime.serving.server import ImageServer
from tests.draws import fuzz_budget

LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def stock(server: ImageServer) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4)
    yield client
    client.close()


@pytest.fixture(scope="module")
def generator(bundle: Bundle) -> Any:
    with Generator.load(bundle, threads=1) as g:
        yield g


def tensor(name: str, values: np.ndarray, binary: bool) -> triton.InferInput:
    datatype = {"int64": "INT64", "int32": "INT32", "float32": "FP32"}[str(values.dtype)]
    result = triton.InferInput(name, list(values.shape), datatype)
    result.set_data_from_numpy(values, binary_data=binary)
    return result


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and int(np.abs(a.astype(int) - b.astype(int)).max()) <= 1


def test_the_stock_client_sees_a_server_and_its_models(stock: triton.InferenceServerClient) -> None:
    assert stock.is_server_live()
    assert stock.is_server_ready()
    assert stock.is_model_ready("small")
    assert stock.is_model_ready("small.int8", "1")
    assert not stock.is_model_ready("other")
    assert not stock.is_model_ready("small", "2")
    assert stock.get_server_metadata()["name"] == "stylert"
    metadata = stock.get_model_metadata("small")
    assert [output["shape"] for output in metadata["outputs"]] == [[-1, 16, 16, 3], [-1, 6, 20]]
    assert [i["name"] for i in stock.get_model_config("small")["input"]] == [i["name"] for i in metadata["inputs"]]
    assert [model["name"] for model in stock.get_model_repository_index()] == ["small", "small.int8"]
    with pytest.raises(InferenceServerException, match="API key"):
        stock.load_model("small")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_the_stock_client_gets_the_generators_images(
    stock: triton.InferenceServerClient, generator: Generator, binary_in: bool, binary_out: bool
) -> None:
    seeds, psi = np.array([3, 4, 5]), np.array([0.7], np.float32)
    inputs = [tensor("seed", seeds, binary_in), tensor("psi", psi, binary_in), tensor("cutoff", np.array([2]), binary_in)]
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("ws", "image")]
    result = stock.infer("small", inputs, outputs=wanted, request_id="abc")
    assert result.get_response()["id"] == "abc"
    assert close(result.as_numpy("image"), generator(seeds, 0.7, 2))
    np.testing.assert_allclose(result.as_numpy("ws"), generator.map(z_from_seeds(seeds, 24), 0.7, 2), atol=1e-5)


def test_latents_are_inputs_and_all_outputs_come_by_default(stock: triton.InferenceServerClient, generator: Generator) -> None:
    ws = generator.map(z_from_seeds([1, 2], 24))
    result = stock.infer("small", [tensor("ws", ws, True)])
    assert close(result.as_numpy("image"), generator.synthesize(ws))
    np.testing.assert_array_equal(result.as_numpy("ws"), ws)


def test_asynchronous_calls_share_batches(stock: triton.InferenceServerClient, generator: Generator) -> None:
    calls = [stock.async_infer("small", [tensor("seed", np.array([i]), True)]) for i in range(20)]
    expected = generator(range(20))
    for call, image in zip(calls, expected, strict=True):
        assert close(call.get_result().as_numpy("image")[0], image)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "needs the input seed or ws"),
        ([("seed", np.array([-1]))], "a seed is"),
        ([("seed", np.array([1.5], np.float32))], "whole number"),
        ([("seed", np.array([[1, 2]]))], "whole number"),
        ([("seed", np.zeros(65, np.int64))], "1 to 64 images"),
        ([("seed", np.array([1, 2])), ("psi", np.ones(3, np.float32))], "input psi"),
        ([("seed", np.array([1])), ("psi", np.array([np.nan], np.float32))], "psi must be"),
        ([("seed", np.array([1])), ("cutoff", np.array([7]))], "cutoff"),
        ([("seed", np.array([1])), ("label", np.array([0]))], "no input 'label'"),
        ([("ws", np.zeros((1, 5, 20), np.float32))], "ws must have shape"),
        ([("ws", np.full((1, 6, 20), np.inf, np.float32))], "not finite"),
        ([("ws", np.zeros((1, 6, 20), np.float32)), ("seed", np.array([1]))], "leave out seed"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(
    stock: triton.InferenceServerClient, inputs: list[tuple[str, np.ndarray]], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        stock.infer("small", [tensor(name, values, True) for name, values in inputs])
    with pytest.raises(InferenceServerException, match="no output"):
        stock.infer("small", [tensor("seed", np.array([1]), True)], outputs=[triton.InferRequestedOutput("latent")])


def post(client: httpx.Client, document: Any, tail: bytes = b"", length: object = None) -> httpx.Response:
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = {LENGTH: str(len(head) if length is None else length)} if tail or length is not None else {}
    return client.post("/v2/models/small/infer", content=head + tail, headers=headers)


SEED = {"name": "seed", "shape": [1], "datatype": "INT64"}
WS = {"name": "ws", "shape": [1], "datatype": "FP32"}


def binary(size: object, **changes: Any) -> dict[str, Any]:
    return {"inputs": [{**SEED, "parameters": {"binary_data_size": size}, **changes}]}


@pytest.mark.parametrize(
    ("document", "tail", "length"),
    [
        (b"", b"", None),
        (b"null", b"", None),
        ({"inputs": 1}, b"", None),
        ({"inputs": [SEED]}, b"", None),
        ({"inputs": [{**SEED, "data": [2**64]}]}, b"", None),
        ({"inputs": [{**SEED, "data": [2**200]}]}, b"", None),
        ({"inputs": [{**SEED, "data": ["1"]}]}, b"", None),
        ({"inputs": [{**SEED, "data": [[1], [1, 2]]}]}, b"", None),
        ({"inputs": [{**SEED, "data": [True]}]}, b"", None),
        ({"inputs": [{**SEED, "data": [1], "datatype": "BYTES"}]}, b"", None),
        ({"inputs": [{**SEED, "data": [1], "shape": [-1]}]}, b"", None),
        ({"inputs": [{**SEED, "data": [1], "shape": []}]}, b"", None),
        ({"inputs": [{**SEED, "data": [], "shape": [0]}]}, b"", None),
        ({"inputs": [{**SEED, "data": [1], "shape": [2**63]}]}, b"", None),
        ({"inputs": [{**SEED, "data": [1], "shape": [1] * 99}]}, b"", None),
        ({"inputs": [{**WS, "data": [], "shape": [0, 10**30]}]}, b"", None),
        ({"inputs": [{**WS, "data": [], "shape": [0, 2**62, 2**62]}]}, b"", None),
        ({"inputs": [{**WS, "parameters": {"binary_data_size": 0}, "shape": [0, 2**62, 2**62]}]}, b"", 10**3),
        ({"inputs": [{**WS, "data": ["a" * 500, *[""] * 200_000]}]}, b"", None),
        ({"inputs": [{**SEED, "data": [1]}] * 2}, b"", None),
        ({"inputs": [{**SEED, "data": [1], "parameters": {"shared_memory_region": "x"}}]}, b"", None),
        (binary(8), b"1234567", None),
        (binary(8), b"123456789", None),
        (binary(-1), b"12345678", None),
        (binary(8.0), b"12345678", None),
        (binary("8"), b"12345678", None),
        (binary(True), b"1", None),
        (binary(2**62), b"12345678", None),
        (binary(8, data=[1]), b"12345678", None),
        (binary(8), b"12345678", 0),
        (binary(8), b"12345678", -1),
        (binary(8), b"12345678", 10**9),
        (binary(8), b"12345678", "x"),
        (binary(8), b"12345678", "9" * 5000),
        ({"inputs": [{**SEED, "data": [1]}]}, b"left over", None),
    ],
)
def test_a_broken_request_is_status_400_with_one_line(client: httpx.Client, document: Any, tail: bytes, length: object) -> None:
    answer = post(client, document, tail, length)
    assert answer.status_code == 400, answer.text
    assert "\n" not in answer.json()["error"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=30), st.integers(-3, 300), st.integers(0, 200), st.integers(0, 255))
def test_no_damaged_binary_request_is_a_failure_of_the_server(
    client: httpx.Client, tail: bytes, length: int, position: int, byte: int
) -> None:
    head = bytearray(json.dumps(binary(8)).encode())
    head[position % len(head)] = byte
    answer = post(client, bytes(head), tail, length)
    assert answer.status_code in (200, 400)


numbers = st.integers(-2, 5) | st.sampled_from([2**31, 2**62, 2**63, 2**64, 10**30, 0.5, 1e300, True, None, "1", "", [], {}])
lists = st.recursive(st.lists(numbers, max_size=4), lambda inner: st.lists(inner, max_size=3), max_leaves=4)
parameters = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "shared_memory_region", "classification", "x"]),
    numbers | lists,
    max_size=2,
)
inputs = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["seed", "psi", "cutoff", "label", "ws", "image", ""]) | st.text(max_size=3),
        "shape": st.just([1]) | st.just([1, 6, 20]) | lists,
        "datatype": st.sampled_from([*DATATYPES, "BYTES", ""]),
    },
    optional={"data": st.just([1]) | lists | numbers, "parameters": parameters},
)
requests = st.fixed_dictionaries(
    {"inputs": st.just([{**SEED, "data": [1]}]) | st.lists(inputs, max_size=3)},
    optional={
        "id": numbers,
        "parameters": parameters | st.dictionaries(st.just("binary_data_output"), numbers),
        "outputs": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from(["image", "ws", "x"])}, optional={"parameters": parameters}),
            max_size=3,
        ),
    },
)


@settings(max_examples=fuzz_budget(150, 3000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests, st.binary(max_size=9), st.none() | st.integers(-1, 500))
def test_no_request_of_any_form_is_a_failure_of_the_server(
    client: httpx.Client, document: dict[str, Any], tail: bytes, length: int | None
) -> None:
    answer = post(client, document, tail, length)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["error"].isprintable()


def test_compressed_requests_are_refused(client: httpx.Client) -> None:
    answer = client.post("/v2/models/small/infer", content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
