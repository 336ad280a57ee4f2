"""Bodies that come compressed (RFC 9110, 8.4), decoded piece by piece, so that limits hold."""

import asyncio
import zlib

from starlette.types import Message, Receive

from fend.errors import Invalid, TooLarge, Unsupported

ACCEPTED = ("gzip", "deflate")
PIECE_BYTES = 256 * 1024


class DecodedBody:
    """Receives the body of a request as it was before its sender compressed it."""

    def __init__(
        self, content_encoding: str, receive: Receive, too_large: TooLarge, max_bytes: int
    ):
        """`too_large` is raised when more than `max_bytes` come out."""
        self._codings = [coding.strip().lower() for coding in content_encoding.split(",")]
        self._receive = receive
        self._too_large = too_large
        self._left_bytes = max_bytes
        self._unread = b""
        self._inflater: zlib._Decompress | None = None
        self._full = False  # the last piece: there may be more in the inflater
        self._complete = self._ended = False

    async def __call__(self) -> Message:
        """The next piece of the body.

        Raises:
            Unsupported, Invalid (`content_encoding_invalid`), TooLarge, and what receiving raises.
        """
        coding = self._coding()
        if coding is None or self._ended:
            return await self._receive()
        try:
            while not (piece := self._read(coding)):
                if self._complete:
                    self._ended = True
                    if self._inflater is not None or self._unread:
                        raise _invalid(f"the body ends within its {coding}; send it whole")
                    return {"type": "http.request", "body": b"", "more_body": False}
                message = await self._receive()
                self._unread += message.get("body", b"")
                self._complete = not message.get("more_body", False)
        except zlib.error as error:
            raise _invalid(
                f"the body is no {coding}, as its Content-Encoding says: {error}"
            ) from error
        self._left_bytes -= len(piece)
        if self._left_bytes < 0:
            raise self._too_large
        await asyncio.sleep(0)  # others take their turn
        return {"type": "http.request", "body": piece, "more_body": True}

    def _coding(self) -> str | None:
        named = [coding for coding in self._codings if coding not in ("", "identity")]
        if not named:
            return None
        if len(named) == 1 and (coding := named[0].removeprefix("x-")) in ACCEPTED:
            return coding
        raise Unsupported(
            f"cannot decode a body with Content-Encoding {', '.join(named)[:100]!r}; send it as "
            f"it is, or with one of {', '.join(ACCEPTED)}",
            code="unsupported_content_encoding",
        )

    def _read(self, coding: str) -> bytes:
        """At most PIECE_BYTES; none when more must be received first."""
        while self._unread or self._full:
            if self._inflater is None:
                if coding == "deflate" and not (self._complete or len(self._unread) > 1):
                    return b""
                self._inflater = zlib.decompressobj(_window(coding, self._unread))
            piece = self._inflater.decompress(self._unread, PIECE_BYTES)
            self._full = len(piece) == PIECE_BYTES
            self._unread = self._inflater.unconsumed_tail or self._inflater.unused_data
            if self._inflater.eof:
                if coding == "deflate" and self._unread:
                    raise zlib.error("something follows its end")
                self._inflater, self._full = None, False  # gzip may have further members
            if piece:
                return piece
        return b""


def _invalid(message: str) -> Invalid:
    return Invalid(message, code="content_encoding_invalid", status=400)


def _window(coding: str, start: bytes) -> int:
    """What zlib calls the form of the data. Some send deflate without the header of RFC 1950."""
    if coding == "gzip":
        return 16 + zlib.MAX_WBITS
    with_header = start[0] & 15 == 8 and int.from_bytes(start[:2]) % 31 == 0
    return zlib.MAX_WBITS if with_header else -zlib.MAX_WBITS
