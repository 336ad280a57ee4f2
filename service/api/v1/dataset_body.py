"""The file in the body of an upload, piece by piece: nothing of it is kept in memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from fend.errors import Invalid, Timeout
from service.api.problems import ClientGone
from service.api.uploads import (
    ENCODING_FIELDS,
    FORM_TYPE,
    check_part_encoding,
    file_missing,
    unsupported_media_type,
)

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FILE_TYPES = ("application/zip", "application/x-zip-compressed", "application/octet-stream")
STALL_TIMEOUT_S = 30.0
"""Seconds without data before an upload is given up."""


def file_chunks(request: Request) -> AsyncIterator[bytes]:
    """The bytes of the form's part `file`, or of the whole body.

    Raises:
        Unsupported (`unsupported_media_type`): at once.
        Invalid (`file_missing`, `form_invalid`), Timeout (`upload_stalled`), ClientGone, TooLarge:
            while it is read.
    """
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    kind = media_type.decode("latin-1").lower()
    if kind == FORM_TYPE:
        return _part_chunks(request, options.get(b"boundary", b""))
    if kind in FILE_TYPES:
        return _body_chunks(request)
    raise unsupported_media_type(
        f"cannot read {kind[:100] or 'a body without a Content-Type'}; send {FORM_TYPE} with a "
        f"part 'file', or one of {', '.join(FILE_TYPES)}"
    )


async def _body_chunks(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(STALL_TIMEOUT_S):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise Timeout(
                f"nothing came for {STALL_TIMEOUT_S:g} s; the upload is given up",
                code="upload_stalled", status=408,
            ) from error  # fmt: skip
        except ClientDisconnect as error:
            raise ClientGone("the client left before the upload was complete") from error
        if chunk is None:
            return
        if chunk:
            yield chunk


async def _part_chunks(request: Request, boundary: bytes) -> AsyncIterator[bytes]:
    form = _FilePart()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in _body_chunks(request):
            parser.write(chunk)
            for piece in form.taken():
                yield piece
        parser.finalize()
    except FormParserError as error:
        message = f"the form cannot be read: {error}"
        raise Invalid(message, code="form_invalid", status=400) from error
    if not form.seen or not form.complete:
        raise file_missing("data set")


class _FilePart:
    """The first part called `file`, as a parser of forms finds it."""

    def __init__(self) -> None:
        self.seen = False
        self.complete = False
        self._inside = False
        self._field, self._value = bytearray(), bytearray()
        self._pieces: list[bytes] = []

    def callbacks(self) -> "MultipartCallbacks":
        """What the parser calls."""
        return {
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
        }

    def taken(self) -> list[bytes]:
        """What came since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition" and not self.seen:
            _, options = parse_options_header(bytes(self._value))
            self.seen = self._inside = options.get(b"name") == b"file"
        elif self._field.decode("latin-1").lower() in ENCODING_FIELDS:
            check_part_encoding(self._value.decode("latin-1"))
        self._field.clear()
        self._value.clear()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._inside:
            self._pieces.append(data[start:end])

    def _part_end(self) -> None:
        self.complete = self.complete or self._inside
        self._inside = False
