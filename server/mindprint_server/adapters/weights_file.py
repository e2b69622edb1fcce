"""Judges an uploaded safetensors file on its bytes: the header, the layout of the data, and every value.

The format: 8 bytes with the length of the header, the header in JSON, then the data. The header names for each tensor
its dtype, shape, and first and last byte in the data (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mindprint_server.bounded_json import JsonRefused, parse_json
from mindprint_server.exceptions import Invalid

DTYPE_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
"""Bytes of a value of each dtype that PEFT writes and vLLM loads."""
HEADER_DEPTH = 3
"""Nesting of a header: the object of tensors, a tensor, its lists."""
MAX_NAME_LENGTH = 512
"""Characters of a tensor's name. PEFT writes fewer than 200; some checks take quadratic time in them."""
LENGTH_BYTES = 8
CHUNK_BYTES = 1 << 20
"""Bytes of weights that are checked at once. Their copies take up to eight times as much memory."""


@dataclass(frozen=True)
class TensorEntry:
    """What the header says of a tensor.

    Attributes:
        name: Name of the tensor.
        dtype: A key of `DTYPE_BYTES`.
        shape: Rows and columns.
        begin: Its first byte in the data.
        end: The byte after its last in the data.
    """

    name: str
    dtype: str
    shape: tuple[int, int]
    begin: int
    end: int


def read_entries(file: IO[bytes], *, size: int, max_header_bytes: int) -> list[TensorEntry]:
    """Read and judge the header of a safetensors file. The file is left at its first byte of data.

    Args:
        file: The file, at its begin.
        size: Bytes of the whole file.
        max_header_bytes: Longest header.

    Returns:
        The tensors in the order of their data.

    Raises:
        Invalid: The file is a pickle (adapter_pickle), cut off (adapter_truncated), or malformed.
    """
    start = file.read(LENGTH_BYTES)
    if start[:1] == b"\x80" or start[:2] == b"PK":
        raise Invalid("adapter_pickle", "the weights are a pickle, which may hold code: upload safetensors")
    if len(start) < LENGTH_BYTES:
        raise Invalid("adapter_truncated", "the weights end before their header: upload the whole file")
    (length,) = struct.unpack("<Q", start)
    if length > size - LENGTH_BYTES:
        raise Invalid("adapter_truncated", "the weights are not a complete safetensors file: upload the whole file")
    if length > max_header_bytes:
        raise Invalid(
            "adapter_header",
            f"the header of the weights has {length} bytes, more than {max_header_bytes}: "
            "save fewer tensors, or raise max_weights_header_bytes",
        )
    return parse_header(file.read(length), data_bytes=size - LENGTH_BYTES - length)


def parse_header(header: bytes, *, data_bytes: int) -> list[TensorEntry]:
    """Parse a header, and check that its tensors fill the data without gap or overlap.

    Args:
        header: The JSON text.
        data_bytes: Bytes of data behind it.

    Returns:
        The tensors in the order of their data.

    Raises:
        Invalid: The header is malformed, or does not describe the data.
    """
    try:
        document = parse_json(header, max_depth=HEADER_DEPTH)
    except JsonRefused as error:
        raise _malformed(str(error)) from None
    if not header.startswith(b"{") or not isinstance(document, dict):
        raise _malformed("it is no JSON object")
    _check_metadata(document.pop("__metadata__", {}))
    entries = [_parse_entry(name, entry) for name, entry in document.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_layout(entries, data_bytes)
    return entries


def check_values(file: IO[bytes], entries: Iterable[TensorEntry], *, max_norm: float) -> set[str]:
    """Check that every value is finite and that no tensor is too large. The data is read in pieces.

    Args:
        file: The file, at its first byte of data.
        entries: All tensors, in the order of their data.
        max_norm: Largest Frobenius norm of a tensor.

    Returns:
        Names of the tensors whose values are all zero.

    Raises:
        Invalid: A value is not finite (adapter_not_finite), or a norm passes the bound (adapter_norm).
    """
    zero = set()
    for entry in entries:
        squares = 0.0
        for start in range(entry.begin, entry.end, CHUNK_BYTES):
            values = decode_values(file.read(min(CHUNK_BYTES, entry.end - start)), entry.dtype)
            if not np.isfinite(values).all():
                raise Invalid(
                    "adapter_not_finite",
                    f"tensor {entry.name[:200]!r} holds NaN or infinity: the training diverged, "
                    "train again with a lower learning rate",
                )
            with np.errstate(over="ignore"):
                squares += float(np.dot(values, values))
        if not (norm := math.sqrt(squares)) <= max_norm:
            raise Invalid(
                "adapter_norm",
                f"tensor {entry.name[:200]!r} has a norm of {norm:.4g}, more than {max_norm:g}: "
                "train again with a lower learning rate, or raise max_tensor_norm",
            )
        if norm == 0:
            zero.add(entry.name)
    return zero


def decode_values(data: bytes, dtype: str) -> NDArray[np.float64]:
    """Decode little-endian values of a dtype of `DTYPE_BYTES`."""
    with np.errstate(invalid="ignore"):
        if dtype == "BF16":
            # A bfloat16 is the upper half of a float32. NumPy has no such type.
            return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
        return np.frombuffer(data, f"<f{DTYPE_BYTES[dtype]}").astype(np.float64)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _malformed("its __metadata__ is no object of texts")


def _parse_entry(name: str, entry: Any) -> TensorEntry:
    if len(name) > MAX_NAME_LENGTH:
        raise Invalid(
            "adapter_header",
            f"the name of tensor {name[:40]!r} has {len(name)} characters, more than {MAX_NAME_LENGTH}: "
            "upload the file that PEFT wrote",
        )
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _malformed(f"tensor {name[:200]!r} has other fields than dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise Invalid(
            "adapter_dtype",
            f"tensor {name[:200]!r} has dtype {str(dtype)[:40]!r}: save it as one of {', '.join(DTYPE_BYTES)}",
        )
    if not _is_pair_of_counts(shape):
        raise _malformed(f"the shape of tensor {name[:200]!r} is not two non-negative integers")
    if not _is_pair_of_counts(offsets):
        raise _malformed(f"the data_offsets of tensor {name[:200]!r} are not two non-negative integers")
    (rows, columns), (begin, end) = shape, offsets
    if end - begin != rows * columns * DTYPE_BYTES[dtype]:
        raise _malformed(f"tensor {name[:200]!r} has {end - begin} bytes of data, its shape another number")
    return TensorEntry(name, dtype, (rows, columns), begin, end)


def _is_pair_of_counts(value: Any) -> bool:
    # In Python true is an integer; in JSON it is none.
    return isinstance(value, list) and len(value) == 2 and all(type(one) is int and one >= 0 for one in value)


def _check_layout(entries: Sequence[TensorEntry], data_bytes: int) -> None:
    due = 0
    for entry in entries:
        if entry.begin != due:
            raise _malformed(f"tensor {entry.name[:200]!r} begins at byte {entry.begin} of the data, due is {due}")
        due = entry.end
    if due > data_bytes:
        raise Invalid(
            "adapter_truncated",
            f"the weights have {data_bytes} bytes of data, their header says {due}: upload the whole file",
        )
    if due < data_bytes:
        raise _malformed(f"{data_bytes - due} bytes follow the last tensor")


def _malformed(what: str) -> Invalid:
    return Invalid("adapter_header", f"the weights are malformed ({what}): save them with safetensors and upload again")
