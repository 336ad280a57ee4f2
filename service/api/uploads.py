"""From the body of a request to the pixels a model takes, and the wait for its answer."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import UploadFile
from torch import Tensor

from fend.answers import InputReport
from fend.errors import FendError
from fend.images import DecodeLimits, InputSpec, decode
from service.runtime.hangup import HANGUP, Hangup

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp")
TENSOR_TYPE = "application/json"
FORM_TYPE = "multipart/form-data"

MAX_BYTES_A_NUMBER = 32
"""Room for a double and its comma; a longer body cannot be this tensor and is not parsed."""

T = TypeVar("T")


class UnsupportedMediaType(FendError):
    """The body is declared as something that no image can be in."""

    code = "unsupported_media_type"


class FileMissing(FendError):
    """The form has no file part called `file`."""

    code = "file_missing"


class TooManyImages(FendError):
    """A batch holds more images than the service takes at once."""

    code = "too_many_images"


class TensorInvalid(FendError):
    """The numbers are no picture for this model."""

    code = "tensor_invalid"


class TensorBody(BaseModel):
    """A picture as numbers in [0, 1]: rows of a grey image, or one list of rows a channel."""

    model_config = ConfigDict(strict=True, extra="forbid")

    pixels: list[list[float]] | list[list[list[float]]]


class ClientGone(FendError):
    """The client left before the answer; nobody reads this."""

    code = "client_gone"


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


async def read_upload(request: Request) -> Upload:
    """The picture in the body of `request`: the form's part `file`, or the whole body.

    Raises:
        UnsupportedMediaType, FileMissing.
        HTTPException: 400 for a broken form.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type == FORM_TYPE:
        async with request.form(max_files=1, max_fields=16) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise FileMissing("the form has no file part called 'file'; send the image there")
            return Upload(await file.read(), file.content_type or "")
    if content_type in (*IMAGE_TYPES, TENSOR_TYPE):
        return Upload(await request.body(), content_type)
    raise UnsupportedMediaType(
        f"cannot read {content_type[:100] or 'a body without a Content-Type'}; send {FORM_TYPE} "
        f"with a part 'file', or one of {', '.join(IMAGE_TYPES)}, or {TENSOR_TYPE} with 'pixels'"
    )


async def read_uploads(request: Request, most: int) -> list[Upload]:
    """The pictures in a form's parts `file`, in order: 1 to `most`.

    Raises:
        UnsupportedMediaType, FileMissing, TooManyImages.
        HTTPException: 400 for a broken form.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != FORM_TYPE:
        raise UnsupportedMediaType(
            f"cannot read {content_type[:100] or 'a body without a Content-Type'}; "
            f"send {FORM_TYPE} with a part 'file' for each image"
        )
    async with request.form(max_files=most + 1, max_fields=16) as form:
        files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
        if not files:
            raise FileMissing("the form has no file part called 'file'; send the images there")
        if len(files) > most:
            raise TooManyImages(f"a request may hold {most} images; send the others in another")
        return [Upload(await file.read(), file.content_type or "") for file in files]


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
        TensorInvalid: they have another shape, or are not all in [0, 1].
    """
    shape, wanted = (spec.channels, spec.height_px, spec.width_px), _wanted(spec)
    if pixels.shape == shape[1:] and spec.channels == 1:
        pixels = pixels.unsqueeze(0)
    if pixels.shape != shape:
        raise TensorInvalid(f"the pixels have shape {list(pixels.shape)}; send {wanted}")
    if not torch.isfinite(pixels).all():
        raise TensorInvalid(f"there is NaN or infinity among the pixels; send {wanted}")
    if pixels.min() < 0 or pixels.max() > 1:
        raise TensorInvalid(
            f"the pixels go from {pixels.min():g} to {pixels.max():g}; send {wanted}"
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
    task = asyncio.current_task()
    assert task is not None
    left = False

    def leave() -> None:
        nonlocal left
        left = task.cancel()

    with _told_of_leaving(request, leave):
        try:
            return await work
        except asyncio.CancelledError as error:
            if left and not task.uncancel():
                raise ClientGone("the client left before the answer") from error
            raise


@contextmanager
def _told_of_leaving(request: Request, leave: Callable[[], None]) -> Iterator[None]:
    """`leave` is called when the client leaves."""
    hangup: Hangup | None = request.scope.get("extensions", {}).get(HANGUP)
    if hangup is not None:  # our own connections say it; a task that waits for it costs more
        with hangup.tells(leave):
            yield
        return

    def over(leaving: asyncio.Task[None]) -> None:
        if not leaving.cancelled():
            leave()

    leaving = asyncio.ensure_future(_disconnect(request))
    leaving.add_done_callback(over)
    try:
        yield
    finally:
        leaving.remove_done_callback(over)
        leaving.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _read_tensor(data: bytes, spec: InputSpec) -> Tensor:
    numbers, wanted = spec.channels * spec.height_px * spec.width_px, _wanted(spec)
    if len(data) > MAX_BYTES_A_NUMBER * numbers + 1024:
        raise TensorInvalid(f"the body is too long; send {wanted}")
    try:
        return torch.tensor(TensorBody.model_validate_json(data).pixels, dtype=torch.float32)
    except ValidationError as error:
        raise TensorInvalid(f"{error.errors()[0]['msg']}; send {{'pixels': ...}}") from error
    except ValueError as error:  # rows of different lengths
        raise TensorInvalid(f"the rows differ in length; send {wanted}") from error


def _wanted(spec: InputSpec) -> str:
    shape = [spec.channels, spec.height_px, spec.width_px]
    wanted = f"numbers in [0, 1] of shape {shape}"
    return f"{wanted} or {shape[1:]}" if spec.channels == 1 else wanted
