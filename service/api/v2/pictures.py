"""From the input of a request to the pictures that are in it."""

import base64
import math
import re
from collections.abc import Mapping
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import torch
from torch import Tensor

from fend.errors import FendError
from fend.images import DecodeLimits, InputSpec, media_type
from service.api.uploads import (
    Picture,
    PictureReader,
    Upload,
    read_picture,
    tensor_picture,
    too_many_images,
)
from service.api.v2.binary import unpack_bytes, unpack_numbers
from service.api.v2.protocol import InferInput, InferRequest, TensorMetadata, protocol_invalid

IMAGE, PIXELS = "image", "pixels"
OTHER_PIXELS: Mapping[str, str] = MappingProxyType(
    {"UINT8": "0 to 255; divided by 255 here", "FP16": "as FP32, but as binary data alone"}
)
"""Data types that `pixels` may have beside FP32, and what holds then."""
DATA_URL = re.compile(r"data:([^;,]*)[^,]*;base64,", re.IGNORECASE)


def inputs(spec: InputSpec) -> list[TensorMetadata]:
    """The inputs that a model takes, one of them at a time."""
    return [
        TensorMetadata(name=IMAGE, datatype="BYTES", shape=[-1]),
        TensorMetadata(
            name=PIXELS, datatype="FP32", shape=[-1, *_size(spec)], parameters=dict(OTHER_PIXELS)
        ),
    ]


def raw_picture(body: bytes) -> list[PictureReader]:
    """The picture of a body that is nothing else."""
    return [partial(read_picture, Upload(body, ""))]


def pictures(
    request: InferRequest, binary: bytes, spec: InputSpec, most: int
) -> list[PictureReader]:
    """What reads each picture of a request, in order: 1 to `most`.

    Raises:
        Invalid (`protocol_invalid`), TooLarge.
    """
    if len(request.inputs) != 1:
        raise protocol_invalid(f"{len(request.inputs)} inputs were sent; {_wanted(spec)}")
    [sent] = request.inputs
    known = {wanted.name: wanted for wanted in inputs(spec)}
    if sent.name not in known:
        raise protocol_invalid(f"no input is called {sent.name[:100]!r}; {_wanted(spec)}")
    if sent.datatype not in (known[sent.name].datatype, *(known[sent.name].parameters or ())):
        raise protocol_invalid(
            f"the datatype of {sent.name} is {sent.datatype[:100]!r}; {_wanted(spec)}"
        )
    count, *rest = sent.shape
    if rest != known[sent.name].shape[1:] and not (sent.name == IMAGE and rest == [1]):
        raise protocol_invalid(f"the shape of {sent.name} is {sent.shape}; {_wanted(spec)}")
    if count > most:
        raise too_many_images(most)
    _check_size(sent, binary)
    read = _encoded if sent.name == IMAGE else _tensors
    readers = read(sent, binary)
    if count == 1:
        return readers
    return [partial(_numbered, index, reader) for index, reader in enumerate(readers)]


def _check_size(sent: InferInput, binary: bytes) -> None:
    size = sent.parameters.binary_data_size
    if (sent.data is None) == (size is None):
        raise protocol_invalid(
            f"the values of {sent.name} must be in `data`, or follow the JSON as many bytes as "
            "`binary_data_size` says; send one of the two"
        )
    if len(binary) != (size or 0):
        raise protocol_invalid(
            f"{len(binary)} bytes follow the JSON, and the inputs announce {size or 0}"
        )


def _encoded(sent: InferInput, binary: bytes) -> list[PictureReader]:
    count = math.prod(sent.shape)
    if sent.data is None:
        files = [Upload(file, "") for file in unpack_bytes(binary, count)]
    else:
        files = [_from_base64(text) for text in _flat(sent, sent.data, (str,))]
    return [partial(read_picture, file) for file in files]


def _from_base64(text: str) -> Upload:
    """The file in base64 as encoders write it: with line breaks, in either alphabet, as a data
    URL; without its padding, where nothing shows that more is missing."""
    content_type = ""
    if url := DATA_URL.match(text):
        text, content_type = unquote(text[url.end() :]), media_type(url[1])
    text = "".join(text.split())
    if "+" not in text and "/" not in text:
        text = text.replace("-", "+").replace("_", "/")
    padding = "" if text.endswith("=") else "=" * (-len(text) % 4)
    try:
        data = base64.b64decode(text + padding, validate=True)
        if padding and base64.b64encode(data).decode() != text + padding:
            raise ValueError("the last character says more than its bytes hold")
    except ValueError as error:
        raise protocol_invalid(
            "in JSON an image is its file in base64; send that, or binary data"
        ) from error
    return Upload(data, content_type)


def _tensors(sent: InferInput, binary: bytes) -> list[PictureReader]:
    count, bytes_wanted = math.prod(sent.shape), sent.datatype == "UINT8"
    if sent.data is None:
        values = unpack_numbers(binary, sent.datatype, count)
    elif sent.datatype == "FP16":
        raise protocol_invalid("FP16 has no form in JSON; send it as binary data, or send FP32")
    else:
        numbers = _flat(sent, sent.data, (int,) if bytes_wanted else (int, float))
        if bytes_wanted and not all(0 <= number <= 255 for number in numbers):
            raise protocol_invalid("UINT8 goes from 0 to 255, and there is a number beyond")
        try:
            values = torch.tensor(numbers, dtype=torch.float32)
        except OverflowError as error:
            raise protocol_invalid(
                "a number is too large for FP32; send numbers in [0, 1]"
            ) from error
    if bytes_wanted:
        values = values / 255
    return [partial(_ready, pixels) for pixels in values.view(sent.shape)]


def _ready(pixels: Tensor, spec: InputSpec, _: DecodeLimits) -> Picture:
    return tensor_picture(pixels, spec)


def _flat(sent: InferInput, data: list[Any], kinds: tuple[type, ...]) -> list[Any]:
    """`data` without its nesting, when it has as many elements of `kinds` as the shape says."""
    for _ in sent.shape[1:]:
        if not all(isinstance(row, list) for row in data):
            break
        data = list(chain.from_iterable(data))
    if not all(type(value) in kinds for value in data):  # True is an int, but no number here
        raise protocol_invalid(
            f"`data` of {sent.name} holds something else than {sent.datatype}, or is nested "
            "otherwise than its shape; send it flat or nested as the shape"
        )
    if len(data) != math.prod(sent.shape):
        raise protocol_invalid(
            f"`data` of {sent.name} has {len(data)} elements, and the shape {sent.shape} takes "
            f"{math.prod(sent.shape)}"
        )
    return data


def _numbered(index: int, reader: PictureReader, spec: InputSpec, limits: DecodeLimits) -> Picture:
    """The picture, or its error with its place among the others."""
    try:
        return reader(spec, limits)
    except FendError as error:
        raise type(error)(f"image {index}, counted from 0: {error}", code=error.code) from error


def _size(spec: InputSpec) -> list[int]:
    return [spec.channels, spec.height_px, spec.width_px]


def _wanted(spec: InputSpec) -> str:
    size = ", ".join(str(length) for length in _size(spec))
    return (
        f"send one input: {IMAGE!r}, BYTES of shape [N], encoded images; "
        f"or {PIXELS!r}, FP32 or FP16 of shape [N, {size}], numbers in [0, 1], or UINT8, 0 to 255"
    )
