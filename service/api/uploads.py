"""From the body of a request to the pixels a model takes, and the wait for its answer."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import FormData, UploadFile
from torch import Tensor

from fend.client.answers import InputReport
from fend.errors import Invalid, TooLarge, Unsupported
from fend.images import HOW_TO_SEND, DecodeLimits, InputSpec, claimed_format, decode, media_type
from service.api.problems import ClientGone

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp")
ANY_TYPE = "application/octet-stream"
TENSOR_TYPE = "application/json"
FORM_TYPE = "multipart/form-data"
CHARSET = re.compile(rb";\s*charset(?=[\s*=])", re.IGNORECASE)

ENCODING_FIELDS = ("content-encoding", "content-transfer-encoding")
AS_IT_IS = ("", "identity", "binary", "8bit", "7bit")
"""Values of these fields that leave a part of a form as it is."""

MAX_BYTES_A_NUMBER = 32
"""Room for a double and its comma; a longer body cannot be this tensor and is not parsed."""

T = TypeVar("T")


class TensorBody(BaseModel):
    """A picture as numbers in [0, 1]: rows of a grey image, or one list of rows a channel."""

    model_config = ConfigDict(strict=True, extra="forbid")

    pixels: list[list[float]] | list[list[list[float]]]


@dataclass(frozen=True)
class Upload:
    """One picture as it was sent."""

    data: bytes
    content_type: str


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture as the model takes it: float32 (C,H,W) in [0, 1]."""

    pixels: Tensor
    report: InputReport


PictureReader = Callable[[InputSpec, DecodeLimits], Picture]
"""Makes a picture for a model; takes milliseconds and more, so not on the event loop."""


def unsupported_media_type(message: str) -> Unsupported:
    """The body is declared as something that no image can be in."""
    return Unsupported(message, code="unsupported_media_type")


def file_missing(what: str) -> Invalid:
    """The form has no part called `file`, where `what` should be."""
    return Invalid(
        f"the form has no file part called 'file'; send the {what} there", code="file_missing"
    )


def too_many_images(most: int) -> TooLarge:
    """A request holds more images than the service takes at once."""
    return TooLarge(
        f"a request may hold {most} images; send the others in another", code="too_many_images"
    )


def _form(request: Request, max_files: int) -> AbstractAsyncContextManager[FormData]:
    """The form in the body, read as UTF-8 whatever charset it claims (RFC 7578, 5.1.2): some
    charsets take quadratic time, or are none for text."""
    headers = request.scope["headers"]
    for index, (name, value) in enumerate(headers):
        if name == b"content-type":
            headers[index] = (name, CHARSET.sub(b"; x-charset", value))
    return Request(request.scope, request.receive).form(max_files=max_files, max_fields=16)


async def _upload(file: UploadFile) -> Upload:
    for name in ENCODING_FIELDS:
        check_part_encoding(file.headers.get(name, ""))
    return Upload(await file.read(), media_type(file.content_type))


def check_part_encoding(value: str) -> None:
    """Raises Unsupported for a part of a form that is encoded by itself (RFC 7578, 4.7)."""
    if value.strip().lower() not in AS_IT_IS:
        raise Unsupported(
            f"a part of the form is encoded by {value[:40]!r}; send the file as it is, or compress "
            "the whole body",
            code="unsupported_content_encoding",
        )


async def read_upload(request: Request) -> Upload:
    """The picture in the body of `request`: the form's part `file`, or the whole body.

    Raises:
        Unsupported, Invalid: another media type, or no part `file`.
        HTTPException: 400 for a broken form.
    """
    content_type = media_type(request.headers.get("content-type"))
    if content_type == FORM_TYPE:
        async with _form(request, 1) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise file_missing("image")
            return await _upload(file)
    if content_type != TENSOR_TYPE and claimed_format(content_type) == "other":
        accepted = (
            f"send {FORM_TYPE} with a part 'file', or one of {', '.join(IMAGE_TYPES)}, "
            f"or {TENSOR_TYPE} with 'pixels'"
        )
        raise unsupported_media_type(
            f"cannot read {content_type[:100]}; {HOW_TO_SEND.get(content_type, accepted)}"
        )
    return Upload(await request.body(), content_type)


async def read_uploads(request: Request, most: int) -> list[Upload]:
    """The pictures in a form's parts `file`, in order: 1 to `most`.

    Raises:
        Unsupported, Invalid: another media type, or no part `file`; TooLarge: too many.
        HTTPException: 400 for a broken form.
    """
    content_type = media_type(request.headers.get("content-type"))
    if content_type != FORM_TYPE:
        raise unsupported_media_type(
            f"cannot read {content_type[:100] or 'a body without a Content-Type'}; "
            f"send {FORM_TYPE} with a part 'file' for each image"
        )
    async with _form(request, most + 1) as form:
        files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
        if not files:
            raise file_missing("images")
        if len(files) > most:
            raise too_many_images(most)
        return [await _upload(file) for file in files]


def read_picture(upload: Upload, spec: InputSpec, limits: DecodeLimits) -> Picture:
    """Decode an upload; takes milliseconds and more, so not on the event loop.

    Raises:
        Invalid, TooLarge, Unsupported.
    """
    if upload.content_type == TENSOR_TYPE:
        return tensor_picture(_read_tensor(upload.data, spec), spec)
    image = decode(upload.data, spec, limits, upload.content_type)
    report = InputReport(
        format=image.source_format,
        size_px=image.source_size_px,
        resized=image.resized,
        inverted=image.inverted,
    )
    return Picture(image.pixels, report)


def tensor_picture(pixels: Tensor, spec: InputSpec) -> Picture:
    """The picture that is these numbers: float32 (C,H,W), or (H,W) of a grey one.

    Raises:
        Invalid: they have another shape, or are not all in [0, 1].
    """
    shape, wanted = (spec.channels, spec.height_px, spec.width_px), _wanted(spec)
    if pixels.shape == shape[1:] and spec.channels == 1:
        pixels = pixels.unsqueeze(0)
    if pixels.shape != shape:
        raise Invalid(
            f"the pixels have shape {list(pixels.shape)}; send {wanted}", code="tensor_invalid"
        )
    if not torch.isfinite(pixels).all():
        raise Invalid(
            f"there is NaN or infinity among the pixels; send {wanted}", code="tensor_invalid"
        )
    if pixels.min() < 0 or pixels.max() > 1:
        raise Invalid(
            f"the pixels go from {pixels.min():g} to {pixels.max():g}; send {wanted}",
            code="tensor_invalid",
        )
    size_px = (spec.height_px, spec.width_px)
    report = InputReport(format="tensor", size_px=size_px, resized=False, inverted=False)
    return Picture(pixels, report)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client leaves.

    Call it when the body has been read.

    Raises:
        ClientGone.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("the client left before the answer")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait((working,))


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _read_tensor(data: bytes, spec: InputSpec) -> Tensor:
    numbers, wanted = spec.channels * spec.height_px * spec.width_px, _wanted(spec)
    if len(data) > MAX_BYTES_A_NUMBER * numbers + 1024:
        raise Invalid(f"the body is too long; send {wanted}", code="tensor_invalid")
    try:
        return torch.tensor(TensorBody.model_validate_json(data).pixels, dtype=torch.float32)
    except ValidationError as error:
        raise Invalid(
            f"{error.errors()[0]['msg']}; send {{'pixels': ...}}", code="tensor_invalid"
        ) from error
    except ValueError as error:  # rows of different lengths
        raise Invalid(f"the rows differ in length; send {wanted}", code="tensor_invalid") from error


def _wanted(spec: InputSpec) -> str:
    shape = [spec.channels, spec.height_px, spec.width_px]
    wanted = f"numbers in [0, 1] of shape {shape}"
    return f"{wanted} or {shape[1:]}" if spec.channels == 1 else wanted
