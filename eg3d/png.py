"""Reading image files: pixels from bytes, PNGs through pyspng where it is installed (about twice as fast as Pillow)."""

from __future__ import annotations

import importlib.util
import io

import numpy as np
import PIL.Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 6: 3}  # of the colour types grey, RGB and RGBA; alpha is dropped
_HEADER_BYTES = 26


def read_pixels(content: bytes) -> np.ndarray:
    """uint8 [H, W, 3], or [H, W, 1] for grey ones, of an image file; alpha is dropped, anything else becomes RGB.

    The same pixels come out with and without pyspng. Raises ValueError when it is not a readable image.
    """
    if _is_plain_png(content) and importlib.util.find_spec("pyspng"):
        import pyspng

        try:
            pixels = pyspng.load(content)
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        return np.ascontiguousarray(np.atleast_3d(pixels)[..., : _CHANNELS[content[25]]])
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"pixels of mode {image.mode}, more than 8 bits a channel; convert it first")
            is_grey = image.mode in ("1", "L", "LA")
            pixels = np.asarray(image if image.mode == "RGBA" else image.convert("L" if is_grey else "RGB"))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return np.ascontiguousarray(np.atleast_3d(pixels)[..., :3])


def _is_plain_png(content: bytes) -> bool:
    """A PNG of 8 bits a channel without palette: for these both readers agree to the bit.

    Sizes that Pillow would warn of or refuse are left to it.
    """
    if len(content) < _HEADER_BYTES or not content.startswith(_SIGNATURE):
        return False
    num_pixels = int.from_bytes(content[16:20]) * int.from_bytes(content[20:24])
    return content[24] == 8 and content[25] in _CHANNELS and num_pixels <= (PIL.Image.MAX_IMAGE_PIXELS or 0)
