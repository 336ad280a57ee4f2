"""Untrusted bytes to pixels: what comes out, and what is refused."""

import io
import resource
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from torchvision import transforms

from fend.errors import FendError, Invalid, TooLarge, Unsupported
from fend.images import DecodedImage, DecodeLimits, InputSpec, decode


def code(name: str) -> Callable[[FendError], bool]:
    return lambda error: error.code == name


GREY = InputSpec(channels=1, height_px=28, width_px=28)
RGB = InputSpec(channels=3, height_px=28, width_px=28)
DIGITS = InputSpec(channels=1, height_px=28, width_px=28, polarity="light_on_dark")
DAMAGE = {"image_truncated", "image_corrupt"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


def saved(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()


def gradient(mode: str = "L", size: tuple[int, int] = (28, 28)) -> Image.Image:
    """Light at the bottom right; its red and blue differ."""
    ramp = np.add.outer(np.arange(size[1]), np.arange(size[0])).astype(np.float64)
    ramp = (ramp / max(ramp.max(), 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp // 2, ramp // 4], axis=-1))
    if mode == "I;16":
        return Image.fromarray(ramp.astype(np.uint16) * 257)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(255 - ramp // 2))
        return image
    if mode == "P":
        return image.quantize(64)
    return Image.fromarray(ramp) if mode == "L" else image.convert(mode)


def seven(ink: int, paper: int, size: tuple[int, int] = (28, 28)) -> Image.Image:
    image = Image.new("L", size, paper)
    width, height = size
    line = [(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]
    points = [(x * width, y * height) for x, y in line]
    ImageDraw.Draw(image).line(points, fill=ink, width=max(2, min(size) // 12))
    return image


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    size: tuple[int, int],
    rows: bytes,
    *,
    depth: int = 8,
    colour: int = 0,
    interlace: int = 0,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A PNG by hand: `rows` with their filter bytes, and chunks around the pixel data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + data + after + chunk(b"IEND", b"")


def tiny(size: tuple[int, int], **changes: object) -> InputSpec:
    width, height = size
    return GREY.model_copy(update={"height_px": height, "width_px": width, **changes})


def assert_decodes_or_image_error(data: bytes, spec: InputSpec = DIGITS) -> DecodedImage | None:
    try:
        decoded = decode(data, spec)
    except (Invalid, TooLarge, Unsupported):
        return None
    assert decoded.pixels.shape == (spec.channels, spec.height_px, spec.width_px)
    assert decoded.pixels.dtype == torch.float32
    assert bool(((decoded.pixels >= 0) & (decoded.pixels <= 1)).all())
    return decoded


# What comes out


@pytest.mark.parametrize(
    "spec",
    [*(spec.model_copy(update={"resize": "stretch"}) for spec in (GREY, RGB)), DIGITS],
    ids=["grey", "rgb", "digits"],
)
@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
        *(("WEBP", mode) for mode in ("L", "RGB", "RGBA", "P")),
        *(("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")),
    ],
)
@pytest.mark.parametrize("size", [(28, 28), (61, 40), (3, 5)], ids=str)
def test_every_mode_of_every_format_gives_pixels(file_format, mode, spec, size):
    decoded = assert_decodes_or_image_error(saved(gradient(mode, size), file_format), spec)

    assert decoded is not None
    assert decoded.source_format == file_format.lower()
    assert decoded.source_size_px == (size[1], size[0])
    assert decoded.resized == (size != (28, 28))
    if spec is not DIGITS:  # dark at the top left, light at the bottom right, in every mode
        assert decoded.pixels[:, 14:, 14:].mean() > decoded.pixels[:, :14, :14].mean() + 0.05


def test_pixels_of_an_8_bit_image_of_the_right_size_are_exact():
    levels = np.arange(784, dtype=np.uint32).astype(np.uint8).reshape(28, 28)

    for mode in ("L", "RGB", "RGBA"):
        data = saved(Image.fromarray(levels).convert(mode))
        decoded = decode(data, GREY)
        assert torch.equal(decoded.pixels, torch.from_numpy(levels.copy())[None].float() / 255)
        assert not decoded.resized
        assert torch.equal(decode(data, RGB).pixels, decoded.pixels.expand(3, 28, 28))


def test_16_bit_grey_is_scaled_not_clipped():
    levels = np.linspace(0, 65535, 784).astype(np.uint16).reshape(28, 28)
    expected = torch.from_numpy(levels.astype(np.float32) / 65535)[None]

    assert torch.equal(decode(saved(Image.fromarray(levels)), GREY).pixels, expected)
    shrunk = decode(saved(Image.fromarray(levels).resize((280, 280), 0)), GREY).pixels
    assert torch.allclose(shrunk, expected, atol=0.03)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            {"resize": "crop", "crop_from_px": 32, "interpolation": "bicubic"},
            [transforms.Resize(32, transforms.InterpolationMode.BICUBIC)],
        ),
        ({"resize": "crop", "crop_from_px": 28}, [transforms.Resize(28)]),
        ({"resize": "crop", "interpolation": "nearest"}, [transforms.Resize(28, 0)]),
        ({"resize": "stretch", "crop_from_px": 32}, [transforms.Resize((32, 32))]),
    ],
)
@pytest.mark.parametrize("size", [(61, 40), (40, 83), (50, 50), (20, 29)], ids=str)
def test_a_photograph_is_scaled_and_cropped_as_torchvision_does(written, expected, size):
    image = gradient("RGB", size)
    spec = InputSpec(channels=3, height_px=28, width_px=28, **written)
    whole = transforms.Compose([*expected, transforms.CenterCrop(28), transforms.ToTensor()])
    assert (decode(saved(image), spec).pixels - whole(image)).abs().max() < 1.5 / 255


def test_a_crop_of_one_row_costs_no_more_than_another_and_16_bit_does_not_overshoot():
    spec = InputSpec(channels=1, height_px=28, width_px=28, resize="crop", interpolation="lanczos")
    row = Image.fromarray(np.arange(60_000, dtype=np.uint16).reshape(1, -1))
    steps = Image.fromarray((np.indices((50, 60)).sum(0) // 9 % 2 * 65535).astype(np.uint16))
    for image in (row, steps):
        pixels = decode(saved(image), spec).pixels
        assert pixels.shape == (1, 28, 28)
        assert 0 <= pixels.min() <= pixels.max() <= 1


def test_an_input_says_no_more_than_it_did_where_nothing_new_is_asked():
    assert set(RGB.model_dump()) == {
        "channels", "height_px", "width_px", "background", "resize", "polarity",
    }  # fmt: skip
    for wrong in ({"crop_from_px": 32}, {"resize": "crop", "crop_from_px": 27}):
        with pytest.raises(ValueError, match="crop_from_px"):
            InputSpec(channels=3, height_px=28, width_px=28, **wrong)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_colour_and_alpha(channels):
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    pixel = struct.pack(f">{channels}H", *[0x8000] * channels)
    data = png((2, 1), b"\0" + pixel * 2, depth=16, colour=colour_type)

    value = decode(data, tiny((2, 1))).pixels[0, 0, 0].item()

    assert value == pytest.approx(0.25 if channels in (2, 4) else 0.5, abs=0.004)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_low_bit_depths_span_the_range(depth):
    data = png((2, 1), b"\0" + bytes([(2**depth - 1) << (8 - depth)]), depth=depth)

    assert decode(data, tiny((2, 1))).pixels.flatten().tolist() == [1, 0]


def test_grey_is_bt601_luma():
    for colour, luma in [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)]:
        pixels = decode(saved(Image.new("RGB", (28, 28), colour)), GREY).pixels
        assert pixels.unique().tolist() == [np.float32(luma) / np.float32(255)]


def test_cmyk_jpeg_is_not_shown_as_its_negative():
    red = Image.new("CMYK", (28, 28), (0, 255, 255, 0))

    pixels = decode(saved(red, "JPEG"), RGB).pixels.mean(dim=(1, 2))

    assert pixels.tolist() == pytest.approx([1, 0, 0], abs=0.02)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(file_format, orientation):
    upright = Image.new("L", (32, 16), 0)
    upright.paste(255, (0, 0, 8, 8))
    stored = {  # how a camera that writes this orientation stores the picture
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"quality": 95} if file_format == "JPEG" else {}
    if file_format == "WEBP":
        lossless = {"lossless": True}

    decoded = decode(saved(stored, file_format, exif=exif, **lossless), tiny((32, 16)))

    expected = torch.zeros(1, 16, 32)
    expected[:, :8, :8] = 1
    assert torch.allclose(decoded.pixels, expected, atol=0.05)
    assert decoded.source_size_px == (16, 32)
    assert not decoded.resized


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"MM", b"\0" * 90])
def test_damaged_exif_is_ignored_without_a_warning(exif):
    image = gradient("RGB")

    for file_format in ("JPEG", "PNG", "WEBP"):
        with_exif = decode(saved(image, file_format, exif=exif), RGB)
        assert torch.equal(with_exif.pixels, decode(saved(image, file_format), RGB).pixels)


# Size and padding


def test_fit_keeps_the_shape_and_pads_with_the_background():
    data = saved(Image.new("L", (40, 20), 128))

    black = decode(data, GREY).pixels[0]
    white = decode(data, tiny((28, 28), background="white")).pixels[0]

    assert torch.equal(black[7:21], torch.full((14, 28), 128 / 255))
    assert set(black[:7].unique().tolist() + black[21:].unique().tolist()) == {0}
    assert set(white[:7].unique().tolist() + white[21:].unique().tolist()) == {1}


def test_stretch_fills_the_frame():
    data = saved(Image.new("L", (40, 20), 128))

    pixels = decode(data, tiny((28, 28), resize="stretch")).pixels

    assert torch.equal(pixels, torch.full((1, 28, 28), 128 / 255))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("side", [56, 280, 1792])
def test_fine_patterns_are_averaged_not_sampled(file_format, side):
    board = (np.indices((side, side)).sum(axis=0) % 2 * 255).astype(np.uint8)

    pixels = decode(saved(Image.fromarray(board), file_format), GREY).pixels[0, 1:-1, 1:-1]

    assert pixels.mean().item() == pytest.approx(0.5, abs=0.02)
    assert pixels.std() < 0.05


def test_a_large_jpeg_looks_like_the_same_png():
    image = seven(ink=20, paper=230, size=(1600, 1200))

    jpeg, lossless = (decode(saved(image, form), DIGITS).pixels for form in ("JPEG", "PNG"))

    assert (jpeg - lossless).abs().max() < 0.03


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
def test_extreme_shapes(size):
    assert assert_decodes_or_image_error(saved(Image.new("L", size, 255))) is not None


# Transparency


def transparent_pixel(colour_type: int, depth: int) -> bytes:
    """Two pixels: the first has the colour that tRNS declares transparent, the second is white."""
    top = 2**depth - 1
    if colour_type == 0:
        before = chunk(b"tRNS", struct.pack(">H", top // 3))
        if depth == 16:
            return png((2, 1), b"\0" + struct.pack(">HH", top // 3, top), depth=16, before=before)
        bits = (top // 3 << depth | top) << max(0, 8 - 2 * depth)
        row = bits.to_bytes(2 if depth == 8 else 1, "big")
        return png((2, 1), b"\0" + row, depth=depth, before=before)
    kind = "B" if depth == 8 else "H"
    before = chunk(b"tRNS", struct.pack(">3H", 1, 200, 3) if depth == 8 else b"\1\1\xc8\2\3\3")
    first = (1, 200, 3) if depth == 8 else (0x0101, 0xC802, 0x0303)
    row = struct.pack(f">6{kind}", *first, top, top, top)
    return png((2, 1), b"\0" + row, depth=depth, colour=2, before=before)


@pytest.mark.parametrize(
    ("colour_type", "depth"), [(0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)]
)
def test_the_transparent_colour_of_a_png_becomes_the_background(colour_type, depth):
    data = transparent_pixel(colour_type, depth)

    for background, value in (("black", 0), ("white", 1)):
        spec = tiny((2, 1), background=background)
        assert decode(data, spec).pixels.flatten().tolist() == [value, 1]
        in_colour = decode(data, spec.model_copy(update={"channels": 3})).pixels
        assert in_colour[:, 0, 0].tolist() == [value] * 3


def test_palette_transparency_becomes_the_background():
    image = Image.new("P", (28, 28), 0)
    image.putpalette([10, 20, 30, 255, 255, 255])
    image.paste(1, (14, 0, 28, 28))
    for transparency in (0, bytes([0, 255]), bytes([0])):
        pixels = decode(saved(image, transparency=transparency), GREY).pixels[0]
        assert pixels[:, :14].unique().tolist() == [0]
        assert pixels[:, 14:].unique().tolist() == [1]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("size", [(28, 28), (280, 280)])
def test_half_transparent_is_half_background(mode, size):
    image = Image.new("L", size, 255).convert(mode)
    image.putalpha(128)

    black = decode(saved(image), GREY).pixels
    white = decode(saved(image), tiny((28, 28), background="white")).pixels

    assert torch.allclose(black, torch.full_like(black, 128 / 255), atol=0.005)
    assert torch.equal(white, torch.ones_like(white))


def test_colour_under_full_transparency_does_not_bleed_when_scaling():
    image = Image.new("RGBA", (280, 280), (255, 255, 255, 0))  # white, but invisible
    image.paste((0, 0, 0, 255), (105, 0, 175, 280))

    assert decode(saved(image), GREY).pixels.max() == 0


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("ink", [0, 60, 255])
@pytest.mark.parametrize("size", [(28, 28), (400, 300)])
def test_strokes_on_transparent_ground_stay_visible(file_format, ink, size):
    strokes = seven(ink=255, paper=0, size=size)
    image = Image.new("RGBA", size, (ink, ink, ink, 255))
    image.putalpha(strokes)
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}

    decoded = decode(saved(image, file_format, **options), DIGITS)

    expected = decode(saved(strokes), DIGITS).pixels
    contrast = max(ink, 255 - ink) / 255
    assert decoded.inverted == (ink < 128)
    assert torch.allclose(decoded.pixels, expected * contrast, atol=0.03)


def test_transparent_corners_of_a_paper_do_not_decide():
    image = seven(ink=0, paper=240, size=(280, 280)).convert("RGBA")
    corners = Image.new("L", (280, 280), 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 279, 279), radius=40, fill=255)
    image.putalpha(corners)

    decoded = decode(saved(image), DIGITS)

    assert decoded.inverted
    assert decoded.pixels[0, 0, 0] == 0
    assert decoded.pixels.max() > 0.9


def test_a_fully_transparent_picture_is_background():
    image = Image.new("RGBA", (50, 50), (90, 200, 10, 0))

    assert decode(saved(image), DIGITS).pixels.max() == 0
    assert decode(saved(image), tiny((28, 28), background="white")).pixels.min() == 1


# Polarity


@pytest.mark.parametrize("file_format", ["PNG", "BMP"])
def test_a_negative_gives_exactly_the_pixels_of_its_positive(file_format):
    digit = np.array(seven(ink=255, paper=0))
    digit[10:14, 9:20] //= np.arange(1, 12, dtype=np.uint8)  # some greys

    positive = decode(saved(Image.fromarray(digit), file_format), DIGITS)
    negative = decode(saved(Image.fromarray(255 - digit), file_format), DIGITS)

    assert not positive.inverted
    assert negative.inverted
    assert torch.equal(negative.pixels, positive.pixels)


def test_as_is_never_inverts():
    data = saved(seven(ink=0, paper=255))

    decoded = decode(data, GREY)

    assert not decoded.inverted
    assert decoded.pixels.mean() > 0.5


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_without_contrast_is_left_alone(level):
    noise = np.random.default_rng(0).integers(-3, 4, (64, 64))
    image = Image.fromarray(np.clip(level + noise, 0, 255).astype(np.uint8))

    assert not decode(saved(image), DIGITS).inverted
    assert not decode(saved(Image.new("L", (28, 28), level)), DIGITS).inverted


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_adversarial_noise_does_not_turn_the_polarity(epsilon):
    digit = np.array(seven(ink=255, paper=0)) / 255
    signs = np.random.default_rng(1).choice([-1, 1], digit.shape)
    for perturbation in (signs, np.where(digit > 0.5, -1, 1)):
        noisy = np.clip(digit + epsilon * perturbation, 0, 1)
        for picture, dark_on_light in ((noisy, False), (1 - noisy, True)):
            data = saved(Image.fromarray((picture * 255).round().astype(np.uint8)))
            assert decode(data, DIGITS).inverted == dark_on_light


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_scan_of_pen_on_grey_paper(file_format):
    light = np.linspace(190, 225, 400)[None, :]  # uneven light
    ink = np.array(seven(ink=255, paper=0, size=(400, 300))) / 255
    grain = np.random.default_rng(2).normal(0, 4, ink.shape)
    scan = np.clip(light * (1 - 0.85 * ink) + grain, 0, 255).astype(np.uint8)

    decoded = decode(saved(Image.fromarray(scan).convert("RGB"), file_format), DIGITS)

    assert decoded.inverted
    strokes = decode(saved(Image.fromarray((ink * 255).astype(np.uint8))), DIGITS).pixels
    content = slice(4, 24)
    correlation = torch.corrcoef(
        torch.stack([decoded.pixels[0, content].flatten(), strokes[0, content].flatten()])
    )
    assert correlation[0, 1] > 0.95


def test_colour_pictures_are_inverted_by_their_luma():
    image = Image.new("RGB", (28, 28), (255, 255, 0))
    image.paste((0, 0, 255), (10, 5, 18, 23))

    decoded = decode(saved(image), DIGITS.model_copy(update={"channels": 3}))

    assert decoded.inverted
    assert decoded.pixels[:, 0, 0].tolist() == [0, 0, 1]


# What is refused


def test_empty_body():
    with pytest.raises(Invalid, match="Send", check=code("empty_body")):
        decode(b"", GREY)


def test_byte_limit_is_inclusive():
    data = saved(gradient())

    decode(data, GREY, DecodeLimits(max_bytes=len(data)))
    with pytest.raises(TooLarge, match=str(len(data)), check=code("image_too_large_bytes")):
        decode(data, GREY, DecodeLimits(max_bytes=len(data) - 1))


@pytest.mark.parametrize("file_format", FORMATS)
def test_pixel_limit_is_inclusive(file_format):
    data = saved(gradient("RGB", (30, 20)), file_format)

    decode(data, GREY, DecodeLimits(max_pixels=600))
    with pytest.raises(TooLarge, match="30x20", check=code("image_too_many_pixels")):
        decode(data, GREY, DecodeLimits(max_pixels=599))


def peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bombs() -> dict[str, bytes]:
    side = 30_000
    jpeg = bytearray(saved(gradient(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    bmp = bytearray(saved(gradient(), "BMP"))
    bmp[18:26] = struct.pack("<ii", side, -side)
    webp = b"VP8X" + struct.pack("<II", 10, 0) + (side - 1).to_bytes(3, "little") * 2
    return {
        "png": png((side, side), b"\0" * 1000),
        "png_cut_after_its_header": png((side, side), b"")[:33],
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "webp": b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp,
    }


@pytest.mark.parametrize("name", bombs())
@pytest.mark.parametrize("max_pixels", [16_000_000, 10**12], ids=["default", "pillows_own"])
def test_a_bomb_is_refused_before_memory_is_taken(name, max_pixels):
    data = bombs()[name]
    bound_before = Image.MAX_IMAGE_PIXELS
    memory_before = peak_memory_bytes()

    # Any warning of Pillow would be an error here (see filterwarnings), and not this one.
    with pytest.raises(TooLarge, match="30000x30000", check=code("image_too_many_pixels")):
        decode(data, GREY, DecodeLimits(max_pixels=max_pixels))

    assert peak_memory_bytes() - memory_before < 20 * 2**20  # decoded, it is 900 MB
    assert bound_before == Image.MAX_IMAGE_PIXELS


def test_a_png_of_inflating_text_is_only_its_picture():
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50 * 2**20)))
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50 * 2**20)))
    data = png((1, 1), b"\0\x80", before=profile + text, after=text)

    tracemalloc.start()
    pixels = decode(data, tiny((1, 1))).pixels
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert pixels.item() == np.float32(128) / np.float32(255)
    assert peak < 2**21


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"\x89PNG",
        b"GIF89a" + bytes(50),
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"BM" + bytes(60),
        saved(gradient("RGB"), "GIF"),
        saved(gradient("RGB"), "TIFF"),
        saved(gradient("RGB"), "PPM"),
        saved(gradient("RGB"), "ICO"),
    ],
    ids=lambda data: repr(data[:8]),
)
def test_other_files_are_unsupported(data):
    with pytest.raises(Unsupported, match="PNG", check=code("unsupported_image_format")):
        decode(data, GREY)


def test_run_length_encoded_bmp_is_unsupported():
    data = bytearray(saved(gradient("P"), "BMP"))
    data[30] = 1

    with pytest.raises(Unsupported, match="PNG", check=code("unsupported_image_format")):
        decode(bytes(data), GREY)


def test_a_jpeg_of_endless_scans_is_unsupported():
    data = saved(gradient(), "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")

    with pytest.raises(Unsupported, match="scans", check=code("unsupported_image_format")):
        decode(data[:-2] + data[scan:-2] * 200 + data[-2:], GREY)


@pytest.mark.parametrize(
    "declared", ["image/png", "IMAGE/PNG; q=1", "application/octet-stream", "", None]
)
def test_content_types_that_agree_or_claim_nothing(declared):
    assert decode(saved(gradient()), GREY, content_type=declared).source_format == "png"


@pytest.mark.parametrize("declared", ["image/jpeg", "image/gif", "text/html", "image"])
def test_content_types_that_disagree(declared):
    with pytest.raises(Unsupported, match="image/png", check=code("content_type_mismatch")):
        decode(saved(gradient()), GREY, content_type=declared)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_animations_are_refused(file_format):
    frames = [gradient("RGB"), Image.new("RGB", (28, 28), "red")]
    data = saved(frames[0], file_format, save_all=True, append_images=frames[1:])

    with pytest.raises(Invalid, match="animation", check=code("image_multi_frame")):
        decode(data, GREY)


def test_multi_picture_jpeg_is_refused():
    first, second = gradient("RGB"), Image.new("RGB", (28, 28), "red")

    with pytest.raises(Invalid, match="2 pictures", check=code("image_multi_frame")):
        decode(saved(first, "MPO", save_all=True, append_images=[second]), GREY)


def test_an_invalid_animation_header_warns_nobody():
    none_frames = chunk(b"acTL", struct.pack(">II", 0, 0))

    with pytest.raises(Invalid, check=code("image_multi_frame")):
        decode(png((1, 1), b"\0\0", after=none_frames), GREY)


def test_bytes_after_the_picture_do_not_matter():
    image = gradient("RGB")
    trailer = saved(image, "JPEG") + bytes(range(256)) * 20

    for file_format in FORMATS:
        data = saved(image, file_format)
        assert torch.equal(decode(data + trailer, RGB).pixels, decode(data, RGB).pixels)


# Damage


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_cut_anywhere_is_refused(file_format):
    data = saved(gradient("RGB", (50, 40)), file_format)

    for end in range(16, len(data), 10):
        with pytest.raises(Invalid, check=lambda error: error.code in DAMAGE):
            decode(data[:end], GREY)
    with pytest.raises(Invalid, match="ends early", check=code("image_truncated")):
        decode(data[: len(data) // 2], GREY)
    for end in range(1, 16):
        assert assert_decodes_or_image_error(data[:end]) is None


def test_every_single_byte_of_damage_in_a_png_is_noticed_or_harmless():
    data = saved(gradient("RGB"))
    intact = decode(data, RGB).pixels

    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        decoded = assert_decodes_or_image_error(bytes(damaged), RGB)
        assert decoded is None or torch.equal(decoded.pixels, intact)


def test_pixel_data_that_ends_early_is_no_black_picture():
    rows = (b"\0" + b"\xff" * 28) * 28

    decode(png((28, 28), rows), GREY)
    for end in (len(rows) - 1, 10 * 29, 0):
        with pytest.raises(Invalid, check=code("image_truncated")):
            decode(png((28, 28), rows[:end]), GREY)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (29, 17)])
@pytest.mark.parametrize("bits", [1, 8])
def test_interlaced_png(size, bits):
    width, height = size
    rows = b""
    for column, row, column_step, row_step in [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]:
        columns = len(range(column, width, column_step))
        if columns:
            line = b"\0" + b"\xff" * ((columns * bits + 7) // 8)
            rows += line * len(range(row, height, row_step))

    assert decode(png(size, rows, depth=bits, interlace=1), tiny(size)).pixels.min() == 1
    with pytest.raises(Invalid, check=code("image_truncated")):
        decode(png(size, rows[:-1], depth=bits, interlace=1), tiny(size))


@pytest.mark.parametrize(
    "data",
    [
        png((0, 5), b""),
        png((4, 4), (b"\0" + b"\0" * 4) * 4, colour=3),
        png((4, 4), (b"\0" + b"\0" * 4) * 4, depth=7),
        png((4, 4), (b"\0" + b"\0" * 4) * 4, before=chunk(b"tRNS", b"\0")),
        png((4, 4), b"", before=chunk(b"IHDR", bytes(13))),
        png((4, 4), (b"\x09" + b"\0" * 4) * 4),
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xda\0\x02\xff\xd9",
        b"RIFF\x40\0\0\0WEBPVP8 " + bytes(60),
        b"RIFF\x40\0\0\0WEBPJUNK" + bytes(60),
    ],
)
def test_impossible_files_are_corrupt(data):
    with pytest.raises(Invalid, check=code("image_corrupt")):
        decode(data, GREY)


@pytest.mark.parametrize(
    "flood",
    [
        png((1, 1), b"\0\0", before=chunk(b"aaAa", b"") * 50_000),
        b"\xff\xd8" + b"\xff\xfe\0\x02" * 50_000,
    ],
    ids=["png", "jpeg"],
)
def test_a_flood_of_empty_parts_is_corrupt(flood):
    with pytest.raises(Invalid, match="more than", check=code("image_corrupt")):
        decode(flood, GREY)


def test_the_cause_is_kept():
    data = png((4, 4), (b"\x09" + b"\0" * 4) * 4)

    with pytest.raises(Invalid, check=code("image_corrupt")) as caught:
        decode(data, GREY)

    assert isinstance(caught.value.__cause__, OSError)


SAMPLES = tuple(
    saved(gradient(mode, (31, 23)), file_format)
    for file_format, mode in [
        *(("PNG", mode) for mode in ("1", "LA", "P", "RGB", "RGBA", "I;16")),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("WEBP", "RGB"),
        ("WEBP", "RGBA"),
        ("BMP", "P"),
        ("BMP", "RGBA"),
    ]
)


@given(
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF....WEBPVP8X", b"BM"]),
    rest=st.binary(max_size=300),
)
@example(start=b"BM", rest=bytes(60))
@settings(max_examples=300, deadline=None)
def test_random_bytes_give_pixels_or_an_image_error(start, rest):
    assert_decodes_or_image_error(start + rest)


@given(
    data=st.sampled_from(SAMPLES),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=5),
)
@settings(max_examples=300, deadline=None)
def test_damaged_files_give_pixels_or_an_image_error(data, edits):
    damaged = bytearray(data)
    for position, replacement in edits:
        position %= len(damaged)
        damaged[position : position + len(replacement)] = replacement
    assert_decodes_or_image_error(bytes(damaged))


@given(
    depth=st.sampled_from([0, 1, 2, 3, 4, 8, 16, 255]),
    colour=st.integers(0, 7),
    width=st.integers(0, 9),
    height=st.integers(0, 9),
    palette=st.binary(max_size=20),
    transparency=st.binary(max_size=8),
    rows=st.binary(max_size=400),
)
@settings(max_examples=300, deadline=None)
def test_odd_pngs_with_right_checksums_give_pixels_or_an_image_error(
    depth, colour, width, height, palette, transparency, rows
):
    before = chunk(b"PLTE", palette) + chunk(b"tRNS", transparency)
    rows = rows.ljust(9 * 73, b"\0")
    data = png((width, height), rows, depth=depth, colour=colour, before=before)
    assert_decodes_or_image_error(data)


def test_threads_do_not_disturb_each_other():
    jobs = [(data, decode(data, DIGITS).pixels) for data in SAMPLES] * 20

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda job: decode(job[0], DIGITS).pixels, jobs))

    assert all(torch.equal(got, expected) for got, (_, expected) in zip(results, jobs, strict=True))
