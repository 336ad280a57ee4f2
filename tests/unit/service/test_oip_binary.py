"""Tensors as bytes: what is packed is unpacked, and nothing else is taken for a tensor."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fend.errors import Invalid
from service.api.v2.binary import (
    pack_bytes,
    pack_fp32,
    pack_int64,
    split,
    unpack_bytes,
    unpack_numbers,
)


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_strings_come_back(elements: list[bytes]) -> None:
    assert unpack_bytes(pack_bytes(elements), len(elements)) == elements


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=100))
def test_numbers_come_back(values: list[float]) -> None:
    packed = pack_fp32(values)
    assert packed == struct.pack(f"<{len(values)}f", *values)
    assert unpack_numbers(packed, "FP32", len(values)).tolist() == values


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_whole_numbers_are_little_endian(values: list[int]) -> None:
    assert np.frombuffer(pack_int64(values), "<i8").tolist() == values


@given(st.binary(max_size=60), st.integers(1, 8))
def test_any_bytes_are_strings_or_refused(data: bytes, count: int) -> None:
    try:
        elements = unpack_bytes(data, count)
    except Invalid:
        return
    assert len(elements) == count
    assert pack_bytes(elements) == data


@given(st.binary(max_size=60), st.integers(0, 16))
def test_any_bytes_are_numbers_or_refused(data: bytes, count: int) -> None:
    if len(data) == 4 * count:
        assert len(unpack_numbers(data, "FP32", count)) == count
    else:
        with pytest.raises(Invalid, match="take"):
            unpack_numbers(data, "FP32", count)


@given(st.binary(max_size=60), st.one_of(st.none(), st.integers(0, 80).map(str), st.text()))
def test_a_body_is_split_within_itself_or_refused(body: bytes, length: str | None) -> None:
    try:
        header, binary = split(body, length)
    except Invalid:
        assert length is not None
        return
    assert header + binary == body
    assert len(header) == (len(body) if length is None else int(length))
