"""A JSON document is read whole and of its type, or refused in one line, in bounded time and memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.core.errors import BundleError, StylertError
from stylert.core.files.json_documents import MAX_CONTAINERS, MAX_DEPTH, MAX_DIGITS, read_document, read_part


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0
    names: tuple[str, ...] = ()
    free: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x must not be negative")


def read(text: str | bytes, kind: Any = Point) -> Any:
    return read_document(text, kind, "file p.json", BundleError)


def refusal(text: str | bytes, kind: Any = Point) -> str:
    with pytest.raises(BundleError) as e:
        read(text, kind)
    message = str(e.value)
    assert message.startswith("file p.json is not valid: ")
    assert message.isprintable()
    assert len(message) < 400
    return message


def test_a_document_is_read_and_unknown_keys_are_passed_over() -> None:
    text = '{"x": 3, "y": 2, "names": ["a", "b"], "free": {"k": [1, null]}, "of a later version": {"z": 1}}'
    expected = Point(3, 2.0, ("a", "b"), {"k": [1, None]})
    assert read(text) == read(text.encode()) == expected
    assert read_part(json.loads(text), Point, "part", BundleError) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "truncated"),
        ("{", "truncated"),
        ("[]", "array"),
        ("null", "null"),
        ("{}", "missing required field `x`"),
        ('{"x": "3"}', "$.x"),
        ('{"x": 3.5}', "$.x"),
        ('{"x": true}', "$.x"),
        ('{"x": null}', "$.x"),
        ('{"x": -1}', "x must not be negative"),
        ('{"x": 1, "y": NaN}', "malformed"),
        ('{"x": 1, "y": Infinity}', "malformed"),
        ('{"x": 1, "y": -Infinity}', "malformed"),
        ('{"x": 1, "y": 1e400}', "out of range"),
        ('{"x": 1' + "0" * 400 + "}", "digits"),
        ('{"x": 1, "y": 1' + "0" * 400 + "}", "digits"),
        ('{"x": 1, "free": {"a": 1' + "0" * 400 + "}}", "digits"),
        ('{"x": 1, "names": ["a", 2]}', "$.names[1]"),
        ('{"x": 1, "free": {"\x1b[2J": ', ""),
        ('{"x": 1} 2', "trailing"),
        ('{"x": 1, "names": ["\ud800"]}', ""),
        (b'{"x": 1, "names": ["\xff"]}', ""),
        ('{"x": 1, "x": 2}', 'the key "x" twice'),
        ('{"x": 1, "\\u0078": 2}', 'the key "x" twice'),
        ('{"x": 1, "free": {"a": [{"b": 1, "c": 2, "b" \n : 3}]}}', 'the key "b" twice'),
        ('{"x": 1, "free": {"a": {"b": 1}, "a": 2}}', 'the key "a" twice'),
        ("[" * 200_000, "levels deep"),
        ('{"x":1,"free":' + '{"a":' * 200_000, "levels deep"),
        ('{"x": 1, "free": {"a": "' + "b" * 5_000_000 + '"}}', "longer than"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_documents_of_another_form_are_refused(text: str | bytes, reason: str) -> None:
    assert reason in refusal(text)


def test_a_part_of_another_form_is_refused() -> None:
    for value in (None, 3, {}, {"x": "3"}, {"x": -1}, {"x": 1, "names": 3}, [1]):
        with pytest.raises(StylertError, match="part is not valid"):
            read_part(value, Point, "part", BundleError)


def test_a_key_may_stand_in_several_objects_and_among_values() -> None:
    text = '{"x": 1, "names": ["x", "x"], "free": {"x": [{"x": 1}, {"x": 2}], "y": {"x": "x"}}}'
    assert read(text).free == {"x": [{"x": 1}, {"x": 2}], "y": {"x": "x"}}


def test_brackets_and_digits_within_strings_do_not_count() -> None:
    text = "[{" * 100 + '\\"]' + "9" * 100
    assert read(json.dumps({"x": 1, "free": {"a": text}})).free["a"] == text
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert read(deepest, list) is not None
    refusal(f"[{deepest}]", list)


@given(st.lists(st.integers(1, 45), min_size=1, max_size=6), st.sampled_from([",", " , ", ",-", "e3,", ".5,-", "],[", ',"9",']))
def test_a_number_of_too_many_digits_is_found_wherever_it_stands(lengths: list[int], between: str) -> None:
    text = f"[[{between.join('1' * length for length in lengths)}]]"
    if max(lengths) > MAX_DIGITS:
        assert "digits" in refusal(text, list)
    else:
        assert read(text, list) == json.loads(text)


@pytest.mark.timeout(60)  # a second pass over the text for each of its tokens would take hours
@pytest.mark.parametrize("piece", ['"', '\\"', '"\\', "{}", '""', "1" * 39 + ",", '"a":'])
def test_the_time_grows_with_the_length_alone(piece: str) -> None:
    refusal("[" + piece * (1_000_000 // len(piece)))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@settings(deadline=None)
@given(values)
def test_plain_values_pass_unchanged(value: Any) -> None:
    assert read(json.dumps(value), Any) == value


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 60))
def test_any_bytes_are_read_or_refused(data: bytes, at: int) -> None:
    whole = b'{"x": 3, "y": 2.5, "names": ["a"], "free": {"k": [1, null, true]}}'
    for text in (data, whole[:at] + data + whole[at + len(data) :]):
        try:
            assert isinstance(read(text), Point)
        except BundleError as e:
            assert str(e).isprintable()


@pytest.mark.parametrize("empty", ["[]", "{}", '{"a": []}'])
def test_a_document_of_very_many_lists_and_objects_is_refused_before_they_are_made(empty: str) -> None:
    def text(containers: int) -> str:
        return f"[{', '.join([empty] * (containers // empty.count('[' if '[' in empty else '{')))}]"

    def read_within(content: str) -> Any:
        return read_document(content, list, "file p.json", BundleError, 2**26, max_containers=1000)

    assert len(read_within(text(400))) == 400
    with pytest.raises(BundleError, match="more than 1,000 lists and objects"):
        read_within(text(1000))
    assert f"more than {MAX_CONTAINERS:,} lists and objects" in refusal("[" + "{}," * MAX_CONTAINERS + "{}]", list)
