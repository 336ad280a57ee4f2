"""What a declared type claims, and that it is no contradiction where it claims nothing."""

import image_files
import pytest

from fend.errors import Unsupported
from fend.images import claimed_format, decode

CLAIMS = {
    "png": ["image/png", "IMAGE/PNG; q=1", " image/x-png ", "image/apng", "image/vnd.mozilla.apng"],
    "jpeg": ["image/jpeg", "image/jpg", "image/pjpeg", "image/x-jpeg", "Image/JFIF", "image/mpo"],
    "webp": ["image/webp", "image/x-webp;charset=utf-8"],
    "bmp": ["image/bmp", "image/x-bmp", "image/x-ms-bmp", "image/x-windows-bmp", "image/ms-bmp"],
    None: [
        None, "", ";", "application/octet-stream", "APPLICATION/Octet-Stream; x=y",
        "binary/octet-stream", "application/x-octet-stream", "image/*", "*/*", "image", "unknown",
        "application/x-www-form-urlencoded", "image/x-my-camera",
    ],
    "other": [
        "image/gif", "image/tiff", "image/svg+xml", "image/heic", "image/avif", "text/plain",
        "text/x-odd", "application/pdf", "application/zip", "video/mp4", "application/json",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "claimed"), [(name, claim) for claim, names in CLAIMS.items() for name in names]
)
def test_only_a_claim_of_another_known_format_contradicts(declared, claimed):
    assert claimed_format(declared) == claimed
    for file_format in ("PNG", "JPEG", "WEBP", "BMP"):
        data = image_files.saved(image_files.gradient(), file_format)
        if claimed in (None, file_format.lower()):
            decoded = decode(data, image_files.GREY28, content_type=declared)
            assert decoded.source_format == file_format.lower()
        else:
            with pytest.raises(Unsupported, match=f"image/{file_format.lower()}") as caught:
                decode(data, image_files.GREY28, content_type=declared)
            assert caught.value.code == "content_type_mismatch"
