"""What a declared media type claims: one rule for bodies, parts of forms and files."""

import mimetypes
from typing import Literal

from fend.images.formats.container import ImageFormat

_ALIASES: dict[ImageFormat, tuple[str, ...]] = {
    "png": ("png", "apng", "vnd.mozilla.apng", "citrix-png"),
    "jpeg": ("jpeg", "jpg", "jpe", "pjpeg", "jfif", "pipeg", "mpo", "citrix-jpeg"),
    "webp": ("webp",),
    "bmp": ("bmp", "ms-bmp", "windows-bmp", "win-bitmap", "dib"),
}
_FORMATS = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
_AS_JPEG = (
    "send it as JPEG: export or share it as JPEG, or set an iPhone to take JPEGs "
    "(Settings, Camera, Formats, Most Compatible)"
)
HOW_TO_SEND = {
    "image/heic": _AS_JPEG,
    "image/heif": _AS_JPEG,
    "image/avif": "save it as JPEG or PNG and send that",
}
"""What to do with the pictures that phones and browsers send and that are not accepted."""

_NOTHING = "application/octet-stream"
_OTHER_KINDS = ("text", "audio", "video", "font", "model", "multipart")
_KNOWN = {name for known in mimetypes.MimeTypes().types_map_inv for name in known}


def media_type(content_type: str | None) -> str:
    """In lower case and without parameters; empty where none was declared."""
    return (content_type or "").split(";")[0].strip().lower()


def claimed_format(content_type: str | None) -> ImageFormat | Literal["other"] | None:
    """One of our formats by any of its names, `other` for another known format, or None.

    None claims nothing: no type at all, a wildcard, `application/octet-stream`, or a type that
    nobody knows. Then the bytes decide.
    """
    declared = media_type(content_type)
    kind, _, name = declared.partition("/")
    if kind in ("image", "application") and (found := _FORMATS.get(name.removeprefix("x-"))):
        return found
    if kind in _OTHER_KINDS or (declared in _KNOWN and declared != _NOTHING):
        return "other"
    return None
