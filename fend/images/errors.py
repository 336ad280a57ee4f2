"""What can be wrong with an uploaded image. `code` is stable; the message says what to do."""

from fend.errors import FendError


class ImageError(FendError):
    """The bytes cannot be taken as one picture."""

    code = "image_error"


class EmptyBody(ImageError):
    code = "empty_body"


class ImageTooLarge(ImageError):
    """More bytes than allowed."""

    code = "image_too_large_bytes"


class ImageTooManyPixels(ImageError):
    """Width times height, as the header states it, is more than allowed."""

    code = "image_too_many_pixels"


class UnsupportedImageFormat(ImageError):
    """No image, or of a kind that is not accepted."""

    code = "unsupported_image_format"


class ContentTypeMismatch(ImageError):
    """The declared media type is not what the bytes are."""

    code = "content_type_mismatch"


class ImageTruncated(ImageError):
    """The file ends early."""

    code = "image_truncated"


class ImageCorrupt(ImageError):
    """The file is complete and damaged."""

    code = "image_corrupt"


class ImageMultiFrame(ImageError):
    """An animation or several pictures in one file."""

    code = "image_multi_frame"
