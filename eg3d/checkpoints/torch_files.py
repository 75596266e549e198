"""Files that torch itself wrote, read as tensors and plain values; nothing that a file names is called."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch

from eg3d.one_line import one_line


def load_plain(path: str | os.PathLike[str]) -> Any:
    """What a file of torch.save holds, on the CPU. Raises OSError, or ValueError with the reason alone for any damage.

    The words of torch are not passed on where it refuses a name: they advise to run the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that torch would not have written
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile file fails in any way; all that matters here is that it did
        text = one_line(error)
        if "weights_only" in text:
            text = "it is damaged, or holds more than tensors and plain values"
        raise ValueError(text[:300]) from None
