"""A detector as a user would bring one: `--detector toy_detector:make`. Mean colours, and three classes from them."""

from __future__ import annotations

import torch
from torch import Tensor

from eg3d.metrics.detectors import Description


class ToyDetector:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.identity = {"name": "mean colours", "is_stand_in": True}

    def describe(self, images: Tensor) -> Description:
        if images.dtype != torch.uint8:
            raise ValueError("images must be uint8")
        features = images.to(self.device).float().mean((2, 3)) / 255
        return Description(features, (8 * features).softmax(1))


def make(device: torch.device) -> ToyDetector:
    return ToyDetector(device)


def broken(device: torch.device) -> str:
    return "no detector"
