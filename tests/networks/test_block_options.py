"""Channels and precision of blocks."""

import pytest
import torch

from eg3d.networks.block_options import CONV_CLAMP, BlockPrecision, Channels, Precision


def test_channels():
    channels = Channels(256, 16)
    assert [channels.at(res) for res in (4, 16, 32, 64)] == [16, 16, 8, 4]


def test_number_formats():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert BlockPrecision(True, "fp16").dtype(cpu, torch.float32) is torch.float32  # published: fp16 only on CUDA
    assert BlockPrecision(True, "fp16").dtype(cuda, torch.float32) is torch.float16
    assert BlockPrecision(True, "bf16").dtype(cpu, torch.float32) is torch.bfloat16
    assert BlockPrecision(True, "fp32").dtype(cuda, torch.float64) is torch.float64
    assert BlockPrecision(False, "bf16").dtype(cpu, torch.float32) is torch.float32
    with pytest.raises(ValueError, match="precision: 'fp8' is not one of fp32, bf16, fp16"):
        Precision(kind="fp8")


def test_which_blocks_are_low():
    def low(number, top):
        every = (2**k for k in range(2, 10))
        return [res for res in every if res <= top and Precision(number).block(res, top).is_low]

    assert low(4, 512) == [64, 128, 256, 512]
    assert low(4, 8) == [8]  # never below 8
    assert low(20, 32) == [8, 16, 32]
    assert low(0, 512) == []


def test_all_blocks_are_clamped_if_any_is_low():
    assert Precision(2).block(4, 64) == BlockPrecision(False, "fp32", CONV_CLAMP)
    assert Precision(2, "bf16", 9.0).block(64, 64) == BlockPrecision(True, "bf16", 9.0)
    assert Precision(0, "bf16", 9.0).block(64, 64) == BlockPrecision(False, "bf16", None)
    assert Precision(1).every_block() == BlockPrecision(True, "fp32", CONV_CLAMP)
    assert Precision(0).every_block() == BlockPrecision()
