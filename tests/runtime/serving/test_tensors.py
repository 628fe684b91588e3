"""Tensors of a request are their values exactly, or refused in one line, in memory that the body bounds."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stylert.core.errors import InputError
from stylert.runtime.serving.kserve.answers import PIECE, infer_answer
from stylert.runtime.serving.kserve.http_routes import _read
from stylert.runtime.serving.kserve.tensors import DATATYPES, TensorFacts, read_json, read_raw, read_values
from stylert.runtime.serving.request_headers import INFERENCE_LENGTH

tensors = st.sampled_from(sorted(DATATYPES)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        arrays.arrays(
            DATATYPES[name],
            arrays.array_shapes(min_dims=1, max_dims=4, max_side=4),
            elements=arrays.from_dtype(DATATYPES[name], allow_nan=False, allow_infinity=False),
        ),
    )
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=8,
)
sides = st.integers(-2, 4) | st.sampled_from([2**31, 2**62, 2**63, 10**30])


@given(tensors)
def test_values_are_read_flat_nested_and_raw(case: tuple[str, np.ndarray]) -> None:
    name, array = case
    for document in (array.tolist(), array.ravel().tolist()):
        read = read_json("x", name, array.shape, json.dumps(document).encode())
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
    np.testing.assert_array_equal(read_values("x", name, array.shape, array.ravel().tolist()), array)
    np.testing.assert_array_equal(read_raw("x", name, array.shape, array.tobytes()), array)


@given(st.sampled_from(sorted(DATATYPES)), st.lists(sides, max_size=4), json_values, st.binary(max_size=16))
def test_any_other_shape_or_value_is_refused(name: str, shape: list[int], value: Any, raw: bytes) -> None:
    for read in (
        lambda: read_json("x", name, shape, json.dumps(value).encode()),
        lambda: read_raw("x", name, shape, raw),
        lambda: read_values("x", name, shape, []),
    ):
        try:
            assert list(read().shape) == shape
        except InputError as e:
            assert str(e).isprintable()


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("INT64", [4], "[[1, 2], [3, 4]]"),  # of another shape
        ("INT64", [2, 2], "[[1, 2], [3]]"),
        ("INT64", [2, 2], "[[1, 2], 3, 4]"),
        ("INT64", [1], "[1.0]"),
        ("INT64", [1], "[true]"),
        ("UINT8", [1], "[256]"),
        ("UINT64", [1], "[-1]"),
        ("BOOL", [1], "[1]"),
        ("FP32", [1], '["1"]'),
        ("FP32", [1], "[null]"),
        ("FP32", [1], "[NaN]"),
        ("FP32", [0, 10**30], "[]"),
        ("FP32", [0, 2**62, 2**62], "[]"),
        ("FP32", [], ""),
    ],
)
def test_values_of_another_type_or_shape_are_refused(datatype: str, shape: list[int], data: str) -> None:
    with pytest.raises(InputError):
        read_json("x", datatype, shape, data.encode())


@pytest.mark.parametrize(
    "data", ['["' + "a" * 500 + '"' + ',""' * 600_000 + "]", "[" + "[]," * 600_000 + "1]", "[" + "1," * 900_000 + '"a"]']
)
def test_no_body_takes_much_more_memory_than_it_has_bytes(data: str) -> None:
    body = f'{{"inputs": [{{"name": "ws", "datatype": "FP32", "shape": [1], "data": {data}}}]}}'.encode()
    tracemalloc.start()
    with pytest.raises(InputError):
        _read(body, len(body), len(body))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * len(body)


IMAGE, WS = TensorFacts("image", "UINT8", (-1, 3, 2, 3)), TensorFacts("ws", "FP32", (-1, 2, 5))


async def body_of(response: Any) -> tuple[dict[str, str], bytes]:
    """The headers and the body that an ASGI server would send."""
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await response({"type": "http"}, None, send)
    headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return headers, b"".join(bytes(message.get("body", b"")) for message in messages)


@pytest.mark.parametrize("side", [2, 61])  # sent at once, and in parts
@pytest.mark.parametrize("binary", [set(), {"ws"}, {"image"}, {"image", "ws"}])
def test_an_answer_is_json_with_the_bytes_of_binary_tensors_behind_it(
    rng: np.random.Generator, side: int, binary: set[str]
) -> None:
    results = {
        "image": [rng.integers(0, 256, (side, side, 3), np.uint8) for _ in range(3)],
        "ws": [rng.standard_normal((side, 5)).astype(np.float32) for _ in range(3)],
    }
    response = infer_answer({"model_name": "m"}, [IMAGE, WS], results, frozenset(binary))
    headers, body = asyncio.run(body_of(response))
    assert int(headers["content-length"]) == len(body)
    length = int(headers.get(INFERENCE_LENGTH.lower(), len(body)))
    document, tail = json.loads(body[:length]), body[length:]
    assert document["model_name"] == "m"
    for output, facts in zip(document["outputs"], (IMAGE, WS), strict=True):
        expected = np.stack(results[facts.name])
        assert (output["name"], output["datatype"], output["shape"]) == (facts.name, facts.datatype, list(expected.shape))
        if facts.name in binary:
            size = output["parameters"]["binary_data_size"]
            got, tail = np.frombuffer(tail[:size], expected.dtype), tail[size:]
        else:
            got = np.array(output["data"], expected.dtype)
        np.testing.assert_array_equal(got.reshape(expected.shape), expected)
    assert not tail


def test_a_large_answer_is_made_while_it_is_sent_and_others_get_their_turns() -> None:
    pixels = [np.full((512, 512, 3), 7, np.uint8) for _ in range(8)]
    pieces, turns = 0, 0

    async def send(message: Any) -> None:
        nonlocal pieces
        pieces += 1

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def answer() -> None:
        task = asyncio.create_task(other())
        await infer_answer({"model_name": "m"}, [IMAGE], {"image": pixels}, frozenset())({"type": "http"}, None, send)  # type: ignore[arg-type]
        task.cancel()

    tracemalloc.start()
    asyncio.run(answer())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert min(turns, pieces) >= 8 * 512 * 512 * 3 // PIECE
    assert peak < 8 * 512 * 512 * 3 // 2  # the text would be four times the pixels
