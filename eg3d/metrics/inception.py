"""The Inception network of FID: the classifier of 2015-12-05, from its description, with its public state names.

Szegedy et al. (2015), "Rethinking the Inception architecture": figures 5 to 7 and table 1. Three things in the graph of
2015-12-05 differ from later editions of the network: average pools do not count their padding, the last block takes the
maximum in its pool branch, and there are 1008 classes. The input is resized as TensorFlow 1 did it, without half-pixel
centres. FIDs of another Inception (torchvision's) are other numbers.

Shape letters: N images, R image side.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 299  # px
NUM_FEATURES, NUM_CLASSES = 2048, 1008
BATCH_NORM_EPS = 0.001

_average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
_halved = partial(F.max_pool2d, kernel_size=3, stride=2)


class _Convolution(nn.Module):
    """Convolution, batch normalisation with fixed statistics, ReLU."""

    def __init__(
        self, into: int, out: int, kernel: int | tuple[int, int], *, stride: int = 1, pad: bool = True
    ) -> None:
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (size[0] // 2, size[1] // 2) if pad else 0
        self.conv = nn.Conv2d(into, out, size, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _BlockA(nn.Module):
    """Figure 5: a 5x5 branch and a branch of two 3x3 at 35 pixels."""

    def __init__(self, into: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(into, 64, 1)
        self.branch5x5_1 = _Convolution(into, 48, 1)
        self.branch5x5_2 = _Convolution(48, 64, 5)
        self.branch3x3dbl_1 = _Convolution(into, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3)
        self.branch_pool = _Convolution(into, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], dim=1)


class _ReductionA(nn.Module):
    """35 to 17 pixels."""

    def __init__(self, into: int) -> None:
        super().__init__()
        self.branch3x3 = _Convolution(into, 384, 3, stride=2, pad=False)
        self.branch3x3dbl_1 = _Convolution(into, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, _halved(x)], dim=1)


class _BlockB(nn.Module):
    """Figure 6: 7x7 convolutions as 1x7 and 7x1, at 17 pixels."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        into, out, wide, tall = 768, 192, (1, 7), (7, 1)
        self.branch1x1 = _Convolution(into, out, 1)
        self.branch7x7_1 = _Convolution(into, inner, 1)
        self.branch7x7_2 = _Convolution(inner, inner, wide)
        self.branch7x7_3 = _Convolution(inner, out, tall)
        self.branch7x7dbl_1 = _Convolution(into, inner, 1)
        self.branch7x7dbl_2 = _Convolution(inner, inner, tall)
        self.branch7x7dbl_3 = _Convolution(inner, inner, wide)
        self.branch7x7dbl_4 = _Convolution(inner, inner, tall)
        self.branch7x7dbl_5 = _Convolution(inner, out, wide)
        self.branch_pool = _Convolution(into, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], dim=1)


class _ReductionB(nn.Module):
    """17 to 8 pixels."""

    def __init__(self, into: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Convolution(into, 192, 1)
        self.branch3x3_2 = _Convolution(192, 320, 3, stride=2, pad=False)
        self.branch7x7x3_1 = _Convolution(into, 192, 1)
        self.branch7x7x3_2 = _Convolution(192, 192, (1, 7))
        self.branch7x7x3_3 = _Convolution(192, 192, (7, 1))
        self.branch7x7x3_4 = _Convolution(192, 192, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, _halved(x)], dim=1)


class _BlockC(nn.Module):
    """Figure 7: 3x3 convolutions split into 1x3 and 3x1 side by side, at 8 pixels."""

    def __init__(self, into: int, *, is_last: bool) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(into, 320, 1)
        self.branch3x3_1 = _Convolution(into, 384, 1)
        self.branch3x3_2a = _Convolution(384, 384, (1, 3))
        self.branch3x3_2b = _Convolution(384, 384, (3, 1))
        self.branch3x3dbl_1 = _Convolution(into, 448, 1)
        self.branch3x3dbl_2 = _Convolution(448, 384, 3)
        self.branch3x3dbl_3a = _Convolution(384, 384, (1, 3))
        self.branch3x3dbl_3b = _Convolution(384, 384, (3, 1))
        self.branch_pool = _Convolution(into, 192, 1)
        self.is_last = is_last

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _maximum(x) if self.is_last else _average(x)
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(pooled),
        ]
        return torch.cat(branches, dim=1)


class Inception(nn.Module):
    """Images -> features and class logits, in evaluation mode; gradients are not needed and not kept apart."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2, pad=False)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3, pad=False)
        self.Mixed_5b = _BlockA(192, pool=32)
        self.Mixed_5c = _BlockA(256, pool=64)
        self.Mixed_5d = _BlockA(288, pool=64)
        self.Mixed_6a = _ReductionA(288)
        self.Mixed_6b = _BlockB(128)
        self.Mixed_6c = _BlockB(160)
        self.Mixed_6d = _BlockB(160)
        self.Mixed_6e = _BlockB(192)
        self.Mixed_7a = _ReductionB(768)
        self.Mixed_7b = _BlockC(1280, is_last=False)
        self.Mixed_7c = _BlockC(2048, is_last=True)
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [N, 3, R, R] -> features [N, 2048] and class probabilities without bias [N, 1008], float32."""
        x = (resized_as_tensorflow1(images.float(), SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halved(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(_halved(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features = x.mean(dim=(2, 3))
        return features, (features @ self.fc.weight.T).softmax(dim=1)


def resized_as_tensorflow1(images: Tensor, side: int) -> Tensor:
    """Bilinear resize of [N, C, H, W] to `side` squared: output pixel i reads input position i * H / side.

    Source: tf.image.resize_bilinear with align_corners=False and no half-pixel centres; positions past the last pixel
    read that pixel.
    """
    for dim in (2, 3):
        size = images.shape[dim]
        position = torch.arange(side, device=images.device, dtype=torch.float32) * (size / side)
        low = position.floor().long()
        high = (low + 1).clamp_max(size - 1)
        shape = [1, 1, 1, 1]
        shape[dim] = side
        weight = (position - low).reshape(shape)
        images = torch.lerp(images.index_select(dim, low), images.index_select(dim, high), weight)
    return images
