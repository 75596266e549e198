"""Reading image files: upright pixels from bytes, PNGs through pyspng where it is installed (about twice as fast)."""

from __future__ import annotations

import functools
import importlib.util
import io

import numpy as np
import PIL.ExifTags
import PIL.Image

from eg3d.one_line import one_line

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 6: 3}  # of the colour types grey, RGB and RGBA; alpha is dropped
_STORED = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # channels that a PNG stores, by colour type
_HEADER_BYTES = 26
_MOST_DEFLATED = 1040  # bytes out of one byte in, at most
_ORIENTED = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # where a PNG can say that it lies on its side
# Pillow also opens documents and films, some of them with other programs; TGA has no signature and comes last.
_FORMATS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "GIF", "JPEG2000", "PPM", "QOI", "SGI", "TIFF", "WEBP", "AVIF", "TGA")
_TURNS = {  # by EXIF orientation
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


def read_pixels(content: bytes) -> np.ndarray:
    """uint8 [H, W, 3], or [H, W, 1] for grey ones, of an image file; alpha is dropped, anything else becomes RGB.

    An orientation in the EXIF data of a photograph is applied. The same pixels come out with and without pyspng. Raises
    ValueError when it is not a readable image.
    """
    _check_claimed_size(content)
    if _is_plain_png(content) and importlib.util.find_spec("pyspng"):
        import pyspng

        try:
            pixels = pyspng.load(content)
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        return np.ascontiguousarray(np.atleast_3d(pixels)[..., : _CHANNELS[content[25]]])
    try:
        with PIL.Image.open(io.BytesIO(content), formats=_formats()) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"pixels of mode {image.mode}, more than 8 bits a channel; convert it first")
            image.load()
            is_grey = image.mode in ("1", "L", "LA")
            upright = _upright(image)
            pixels = np.asarray(upright if image.mode == "RGBA" else upright.convert("L" if is_grey else "RGB"))
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file, Pillow's readers raise whatever their parsing meets first
        raise ValueError(one_line(error)) from None
    return np.ascontiguousarray(np.atleast_3d(pixels)[..., :3])


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture as a viewer shows it: a camera held on its side says so in the EXIF data alone."""
    try:
        orientation = image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data says nothing; the pixels are as good as ever
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of _FORMATS that this Pillow was built with."""
    PIL.Image.init()
    return tuple(name for name in _FORMATS if name in PIL.Image.OPEN)


def _check_claimed_size(content: bytes) -> None:
    """Raise ValueError for a PNG that says it has more pixels than so few bytes can hold, before memory is taken."""
    if len(content) < _HEADER_BYTES or not content.startswith(_SIGNATURE):
        return
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    num_bits = width * height * content[24] * _STORED.get(content[25], 1)
    if num_bits > 8 * _MOST_DEFLATED * len(content):
        raise ValueError(f"it says {width} by {height} pixels, more than its {len(content)} bytes can hold")


def _is_plain_png(content: bytes) -> bool:
    """A PNG of 8 bits a channel without palette or orientation: for these both readers agree to the bit.

    Sizes that Pillow would warn of or refuse are left to it.
    """
    if len(content) < _HEADER_BYTES or not content.startswith(_SIGNATURE):
        return False
    num_pixels = int.from_bytes(content[16:20]) * int.from_bytes(content[20:24])
    is_known = content[24] == 8 and content[25] in _CHANNELS and num_pixels <= (PIL.Image.MAX_IMAGE_PIXELS or 0)
    return is_known and not any(mark in content for mark in _ORIENTED)
