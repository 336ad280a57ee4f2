"""POST /v2/models/{name}/infer: pictures in, answers out."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from fend.images import InputSpec
from service.api.answering import Answered
from service.api.services import services
from service.api.uploads import PictureReader, while_connected
from service.api.v2.binary import split
from service.api.v2.metadata import model_of
from service.api.v2.outputs import check_outputs, compares, infer_response
from service.api.v2.pictures import IMAGE, pictures, raw_picture
from service.api.v2.protocol import (
    HEADER_LENGTH,
    InferInput,
    InferRequest,
    InferResponse,
    error_docs,
    protocol_invalid,
)
from service.inference.serving_model import ServingModel

router = APIRouter(prefix="/v2/models/{name}", tags=["open inference protocol"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}

_DOCS: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {
            "description": "The outputs, as JSON, or JSON and the bytes of the tensors.",
            "model": InferResponse,
            "content": {"application/octet-stream": _BINARY},
        },
        **error_docs(400, 404, 413, 415, 422, 429, 503, 504),
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": HEADER_LENGTH,
                "in": "header",
                "description": "The length of the JSON in bytes, where tensors follow it; 0 where "
                "the body is one encoded image and nothing else.",
                "schema": {"type": "integer", "minimum": 0},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
                "application/octet-stream": _BINARY,
            },
        },
    },
}


@dataclass(frozen=True)
class _Work:
    """What a body asks for."""

    request: InferRequest
    readers: list[PictureReader]


@router.post("/infer", **_DOCS)
async def infer(request: Request, name: str) -> Response:
    """Clean and classify one or many images."""
    return await _infer(request, name, None)


@router.post("/versions/{version}/infer", **_DOCS)
async def infer_version(request: Request, name: str, version: str) -> Response:
    """Clean and classify one or many images, by this version of the model or not at all."""
    return await _infer(request, name, version)


async def _infer(request: Request, name: str, version: str | None) -> Response:
    answering = services(request).answering
    timeout_s = answering.timeout_s(request, model_of(request, name, version))
    body, header_length = await request.body(), request.headers.get(HEADER_LENGTH)
    model = model_of(request, name, version)  # a swap may have come with the body
    deadline_s = time.monotonic() + timeout_s

    async def work() -> Response:
        asked = await answering.run_in_decoder(
            model, "decode", lambda: _read(body, header_length, model, answering.most_images(model))
        )
        if others := len(asked.readers) - 1:
            places.enter_context(model.batcher.admission(others, deadline_s))
        answers = await _all_or_none(
            answering.take_through(model, reader, deadline_s, compares(asked.request.outputs))
            for reader in asked.readers
        )
        return await answering.run_in_decoder(
            model, "encode", lambda: infer_response(asked.request, answers)
        )

    with ExitStack() as places:
        # A place for the first image before the body is looked at, which is work as well.
        places.enter_context(model.batcher.admission(1, deadline_s))
        return await while_connected(request, work())


def _read(body: bytes, header_length: str | None, model: ServingModel, most: int) -> _Work:
    """What `body` asks of `model`.

    Raises:
        Invalid, TooManyImages.
    """
    header, binary = split(body, header_length)
    content = model.manifest.content
    if header_length is not None and not header:
        raw = InferInput(name=IMAGE, datatype="BYTES", shape=[1])
        return _Work(InferRequest(inputs=[raw]), raw_picture(binary))
    _check_size(header, most, content.input)
    try:
        asked = InferRequest.model_validate_json(header)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise protocol_invalid(f"{place or 'the body'}: {first['msg']}") from error
    for parameters in [each.parameters for each in asked.inputs] + [
        each.parameters for each in asked.outputs
    ]:
        parameters.check_memory()
    check_outputs(asked.outputs, content)
    return _Work(asked, pictures(asked, binary, content.input, most))


def _check_size(header: bytes, most: int, spec: InputSpec) -> None:
    """Refuse JSON that nests more than the images of a request can: parsing holds up everybody.

    Raises:
        Invalid (`protocol_invalid`).
    """
    rows = most * spec.channels * (spec.height_px + 1)
    values = rows * spec.width_px
    if header.count(b"[") + header.count(b"{") > 1000 + rows or header.count(b",") > 1000 + values:
        message = f"the JSON holds more than {most} images; send fewer, or binary data"
        raise protocol_invalid(message)


async def _all_or_none(works: Iterable[Any]) -> list[Answered]:
    """The results in order; when one fails the others are dropped."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]
