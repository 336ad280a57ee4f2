"""Tensors as bytes: little-endian, row by row, no padding; strings with their length before them.

This is Triton's binary tensor data extension.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from service.api.v2.protocol import HEADER_LENGTH, protocol_invalid

_LENGTH = struct.Struct("<I")


def split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """The JSON and the tensors of a body, by the value of `HEADER_LENGTH`.

    Raises:
        Invalid (`protocol_invalid`): the value is no length within the body.
    """
    if header_length is None:
        return body, b""
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 16):
        raise protocol_invalid(
            f"{HEADER_LENGTH} is {header_length[:40]!r}; send the number of bytes of the JSON"
        )
    length = int(header_length)
    if length > len(body):
        raise protocol_invalid(
            f"{HEADER_LENGTH} is {length}, and the body has {len(body)} bytes; "
            "send the length of the JSON alone"
        )
    return body[:length], body[length:]


_NUMBERS: Mapping[str, str] = MappingProxyType({"FP32": "<f4", "FP16": "<f2", "UINT8": "u1"})


def unpack_numbers(data: bytes, datatype: str, count: int) -> Tensor:
    """`count` numbers of FP32, FP16 or UINT8, as float32 (count,).

    Raises:
        Invalid (`protocol_invalid`): another number of bytes than that takes.
    """
    kind = np.dtype(_NUMBERS[datatype])
    if len(data) != kind.itemsize * count:
        raise protocol_invalid(
            f"{count} numbers of {datatype} take {kind.itemsize * count} bytes, and {len(data)} "
            "were sent"
        )
    return torch.from_numpy(np.frombuffer(data, kind).astype(np.float32))


def unpack_bytes(data: bytes, count: int) -> list[bytes]:
    """`count` strings.

    Raises:
        Invalid (`protocol_invalid`): the lengths do not add up to exactly these bytes.
    """
    elements = []
    start = 0
    for index in range(count):
        if len(data) - start < _LENGTH.size:
            raise protocol_invalid(f"the bytes end before element {index} of {count}")
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        if len(data) - start < length:
            raise protocol_invalid(
                f"element {index} should have {length} bytes, and {len(data) - start} are left; "
                "send each element as its length, 4 bytes little-endian, and its bytes"
            )
        elements.append(data[start : start + length])
        start += length
    if start != len(data):
        raise protocol_invalid(f"{len(data) - start} bytes are left after the last of {count}")
    return elements


def pack_fp32(values: Sequence[float]) -> bytes:
    """The bytes of FP32 numbers."""
    return np.array(values, "<f4").tobytes()


def pack_int64(values: Sequence[int]) -> bytes:
    """The bytes of INT64 numbers."""
    return np.array(values, "<i8").tobytes()


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """The bytes of strings."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)
