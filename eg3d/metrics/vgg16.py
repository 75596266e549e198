"""VGG-16 (Simonyan and Zisserman, 2014, configuration D) as a feature network, and the perceptual distance LPIPS on it.

State names are those of the public ImageNet weights (features.N, classifier.N). LPIPS (Zhang et al., 2018): features
after five ReLUs, scaled to unit length over channels, squared differences weighted by channel, averaged over pixels.
The channel weights come with torchmetrics. Shape letters: N images, R image side.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 224  # px
NUM_FEATURES = 4096
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of colours in [0, 1]
CHANNELS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0 = halve the picture
LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of colours in [-1, 1]
LPIPS_LAYERS = 5  # the last ReLU before each halving


class VGG16(nn.Module):
    """The classifier up to its second fully connected layer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        into = 3
        for out in CHANNELS:
            layers += [nn.Conv2d(into, out, 3, padding=1), nn.ReLU()] if out else [nn.MaxPool2d(2)]
            into = out or into
        self.features = nn.Sequential(*layers)
        sizes = ((512 * 7 * 7, NUM_FEATURES), (NUM_FEATURES, NUM_FEATURES), (NUM_FEATURES, 1000))
        self.classifier = nn.ModuleDict({name: nn.Linear(*size) for name, size in zip("036", sizes, strict=True)})

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, R, R] -> activations of the second fully connected layer after its ReLU, [N, 4096]."""
        x = F.interpolate(images.float() / 255, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        x = self.features((x - _colours(IMAGENET_MEAN, x)) / _colours(IMAGENET_STD, x)).flatten(1)
        return F.relu(self.classifier["3"](F.relu(self.classifier["0"](x))))

    def stages(self, x: Tensor) -> list[Tensor]:
        """Activations before each halving, of an already normalised picture [N, 3, R, R]."""
        found = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
            x = layer(x)
        return found


def lpips_weights() -> list[Tensor]:
    """Channel weights of the five layers, [1, C, 1, 1] each, from the file that torchmetrics carries."""
    package = importlib.util.find_spec("torchmetrics")
    root = Path(package.origin).parent if package and package.origin else Path("torchmetrics")
    path = root / "functional" / "image" / "lpips_models" / "vgg.pth"
    if not path.is_file():
        raise FileNotFoundError(f"no LPIPS channel weights at {path}; pip install 'torchmetrics>=1.4'")
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return [tensors[f"lin{layer}.model.1.weight"] for layer in range(LPIPS_LAYERS)]


def lpips_distance(vgg: VGG16, weights: list[Tensor], first: Tensor, second: Tensor) -> Tensor:
    """LPIPS [N] of two batches of pictures [N, 3, R, R] in [-1, 1]; 0 for the same picture."""
    pairs = (vgg.stages((x - _colours(LPIPS_SHIFT, x)) / _colours(LPIPS_SCALE, x)) for x in (first, second))
    total = torch.zeros(len(first), device=first.device)
    for a, b, weight in zip(*pairs, weights, strict=True):
        difference = (_unit_length(a) - _unit_length(b)).square()
        total = total + (difference * weight.to(difference)).sum(1).mean((1, 2))
    return total


def _unit_length(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _colours(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return like.new_tensor(values).reshape(1, 3, 1, 1)
