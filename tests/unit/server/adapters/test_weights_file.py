from __future__ import annotations

import copy
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mindprint_server.adapters import weights_file as under_test
from mindprint_server.adapters.weights_file import DTYPE_BYTES, check_values, decode_values, read_entries
from mindprint_server.exceptions import Invalid
from weights import NAMES, SHAPES, data_of, header_of, nested, weights_file

MAX_HEADER_BYTES = 2_000_000
LONG = "." * 513


def judge(content: bytes, *, max_header_bytes: int = MAX_HEADER_BYTES, max_norm: float = 100) -> None:
    file = io.BytesIO(content)
    entries = read_entries(file, size=len(content), max_header_bytes=max_header_bytes)
    check_values(file, entries, max_norm=max_norm)


def code_of(content: bytes, **bounds: Any) -> str:
    with pytest.raises(Invalid) as error:
        judge(content, **bounds)
    assert ": " in error.value.message, "it says what to do"
    return error.value.code


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    header = header_of()
    change(header)
    return weights_file(header)


@pytest.mark.parametrize("dtype", DTYPE_BYTES)
def test_read_entries_of_each_served_dtype_returns_shapes(dtype: str) -> None:
    content = weights_file(header_of(dtype), data_of(dtype))
    entries = read_entries(io.BytesIO(content), size=len(content), max_header_bytes=MAX_HEADER_BYTES)
    assert {entry.name: entry.shape for entry in entries} == SHAPES
    judge(content)


def test_read_entries_in_any_order_of_the_header_follows_the_data() -> None:
    header = dict(reversed(header_of().items()))
    content = weights_file(header)
    entries = read_entries(io.BytesIO(content), size=len(content), max_header_bytes=MAX_HEADER_BYTES)
    assert [entry.name for entry in entries] == list(NAMES)


def test_read_entries_as_safetensors_writes_them() -> None:
    from safetensors.numpy import save

    judge(save({name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}, metadata={"format": "pt"}))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\x80\x04pickle", "adapter_pickle"),
        (b"PK\x03\x04zip of a torch.save", "adapter_pickle"),
        (b"", "adapter_truncated"),
        (b"\x01\x02", "adapter_truncated"),
        (struct.pack("<Q", 2**40) + b"{}", "adapter_truncated"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "adapter_truncated"),
        (weights_file(b"[]", b""), "adapter_header"),
        (weights_file(b" {}", b""), "adapter_header"),
        (weights_file(b"", b""), "adapter_header"),
        (weights_file(b"\xff", b""), "adapter_header"),
        (weights_file({"a": "b"}, b""), "adapter_header"),
        (weights_file({}, b"x"), "adapter_header"),
        (weights_file(b'{"a":' * 30_000 + b"1" + b"}" * 30_000, b""), "adapter_header"),
        (weights_file(b'{"a":' + nested(100_000) + b"}", b""), "adapter_header"),
    ],
)
def test_read_entries_of_no_safetensors_file_is_refused(content: bytes, code: str) -> None:
    assert code_of(content) == code


def test_read_entries_cut_off_anywhere_is_truncated() -> None:
    whole = weights_file()
    for length in range(0, len(whole), 7):
        assert code_of(whole[:length]) == "adapter_truncated"


def test_read_entries_with_trailing_bytes_is_refused() -> None:
    assert code_of(weights_file() + b"\0") == "adapter_header"


def test_read_entries_with_long_header_is_refused_by_the_bound() -> None:
    padded = json.dumps(header_of()).encode() + b" " * 5000
    judge(weights_file(padded))
    assert code_of(weights_file(padded), max_header_bytes=5000) == "adapter_header"


@pytest.mark.parametrize("dtype", ["I64", "BOOL", "U8", "F8_E4M3", "f32", "", None, 1, ["F32"], {}])
def test_read_entries_of_another_dtype_is_refused(dtype: Any) -> None:
    assert code_of(changed(lambda header: header[NAMES[0]].update(dtype=dtype))) == "adapter_dtype"


FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "missing dtype": lambda header: header[NAMES[0]].pop("dtype"),
    "missing shape": lambda header: header[NAMES[0]].pop("shape"),
    "missing offsets": lambda header: header[NAMES[0]].pop("data_offsets"),
    "unknown field": lambda header: header[NAMES[0]].update(strides=[1]),
    "overlap": lambda header: header[NAMES[1]].update(data_offsets=[0, 128]),
    "gap": lambda header: header[NAMES[1]].update(data_offsets=[129, 257]),
    "negative": lambda header: header[NAMES[0]].update(data_offsets=[-128, 0]),
    "reversed": lambda header: header[NAMES[0]].update(data_offsets=[128, 0]),
    "short": lambda header: header[NAMES[1]].update(data_offsets=[128, 255]),
    "first is not at 0": lambda header: header.pop(NAMES[0]),
    "three offsets": lambda header: header[NAMES[0]].update(data_offsets=[0, 64, 128]),
    "float offsets": lambda header: header[NAMES[0]].update(data_offsets=[0.0, 128.0]),
    "text offsets": lambda header: header[NAMES[0]].update(data_offsets="ab"),
    "float shape": lambda header: header[NAMES[0]].update(shape=[4.0, 8.0]),
    "boolean shape": lambda header: header[NAMES[0]].update(shape=[True, 32]),
    "negative shape": lambda header: header[NAMES[0]].update(shape=[-4, -8]),
    "huge shape": lambda header: header[NAMES[0]].update(shape=[2**62, 2**62]),
    "shape above 64 bits": lambda header: header[NAMES[0]].update(shape=[10**30, 1]),
    "one dimension": lambda header: header[NAMES[0]].update(shape=[32]),
    "many dimensions": lambda header: header[NAMES[0]].update(shape=[1] * 100_000),
    "deep shape": lambda header: header[NAMES[0]].update(shape=[[4], [8]]),
    "metadata is a list": lambda header: header.update(__metadata__=[]),
    "metadata holds a number": lambda header: header.update(__metadata__={"a": 1}),
    "NaN": lambda header: header[NAMES[0]].update(shape=[float("nan"), 1]),
    "lone surrogate": lambda header: header.update({"\ud800": header.pop(NAMES[1])}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_read_entries_of_malformed_header_is_refused(fault: str) -> None:
    assert code_of(changed(FAULTS[fault])) == "adapter_header"


def test_read_entries_of_long_name_is_refused() -> None:
    content = changed(lambda header: header.update({LONG: header.pop(NAMES[0])}))
    assert code_of(content) == "adapter_header"
    judge(changed(lambda header: header.update({LONG[1:]: header.pop(NAMES[0])})))


def test_read_entries_of_repeated_tensor_is_refused() -> None:
    text = json.dumps(header_of()).replace(NAMES[1], NAMES[0]).encode()
    assert code_of(weights_file(text)) == "adapter_header"


def test_read_entries_beyond_the_file_is_truncated() -> None:
    assert code_of(weights_file(data=data_of()[:-4])) == "adapter_truncated"


@pytest.mark.parametrize("dtype", DTYPE_BYTES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 37, 63])
def test_check_values_that_are_not_finite_is_refused(dtype: str, value: float, place: int) -> None:
    values = np.full(64, 0.01)
    values[place] = value
    assert code_of(weights_file(header_of(dtype), data_of(dtype, values))) == "adapter_not_finite"


@pytest.mark.parametrize(("dtype", "value"), [("F16", 6e4), ("BF16", 1e38), ("F32", 3e38), ("F64", 1e300)])
def test_check_values_of_huge_finite_numbers_is_refused(dtype: str, value: float) -> None:
    assert code_of(weights_file(header_of(dtype), data_of(dtype, value))) == "adapter_norm"


def test_check_values_norm_is_of_one_whole_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "CHUNK_BYTES", 24)  # several pieces a tensor, the last one shorter
    content = weights_file(data=data_of(values=2.0))
    norm = (32 * 2.0**2) ** 0.5
    judge(content, max_norm=norm * 1.0001)
    assert code_of(content, max_norm=norm * 0.9999) == "adapter_norm"


@given(st.lists(st.floats(width=16), min_size=1))
def test_decode_values_are_those_of_numpy(values: list[float]) -> None:
    for dtype in DTYPE_BYTES:
        data = data_of(dtype, np.resize(np.asarray(values, np.float64), 64))
        wanted = np.resize(np.asarray(values, np.float64), 64)
        found = decode_values(data, dtype)
        np.testing.assert_allclose(found, wanted, rtol=2**-7, equal_nan=True)


@given(st.data())
@hypothesis_settings(max_examples=200)
def test_judge_with_changed_bytes_passes_or_refuses(data: st.DataObject) -> None:
    content = bytearray(weights_file(header_of("BF16"), data_of("BF16")))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        judge(bytes(content))
    except Invalid:
        return


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F32", "BF16", "I8", ""])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


@given(st.sampled_from(NAMES), st.sampled_from(["dtype", "shape", "data_offsets", None]), VALUES)
@hypothesis_settings(max_examples=200)
def test_judge_with_changed_header_passes_or_refuses(name: str, field: str | None, value: Any) -> None:
    header = copy.deepcopy(header_of())
    if field is None:
        header[name] = value
    else:
        header[name][field] = value
    try:
        judge(weights_file(header))
    except Invalid:
        return
