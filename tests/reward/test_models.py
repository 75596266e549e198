"""The density reward network: published keys, golden arrays' small case, quirks, and its feature's definition."""

from __future__ import annotations

import warnings
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reward_model_training.models import ModelConfig, RewardModel, build_model
from reward_model_training.models.backbones.sigma_unet3d import SigmaUNetConfig, depth_profile_feature
from reward_model_training.models.heads import PUBLISHED_RESIDUAL, MLPBlock, ScoreHeadsConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "reward_sigma_unet.npz"
TINY = SigmaUNetConfig(f_maps=[2, 4, 8], num_groups=2, final_size_out=20)


def tiny_config() -> ModelConfig:
    return ModelConfig(backbone=TINY, heads=ScoreHeadsConfig([6, 6], 5, [4, 3]))


def published_names() -> dict[str, list[int]]:
    """Names and shapes of the released state dict, written out here by its rules."""
    names: dict[str, list[int]] = {}

    def block(prefix: str, sizes: list[int]) -> None:
        for layer, (a, b) in zip(("input_layer", "hidden_layers.0.0", "output_layer"), pairwise(sizes)):
            names[f"{prefix}.{layer}.weight"], names[f"{prefix}.{layer}.bias"] = [b, a], [b]

    def residual(prefix: str, c: int) -> None:
        for conv in ("conv2", "conv3"):
            names[f"{prefix}.{conv}.groupnorm.weight"] = names[f"{prefix}.{conv}.groupnorm.bias"] = [c]
            names[f"{prefix}.{conv}.conv.weight"] = [c, c, 3, 3, 3]
        for fc in ("fc1", "fc2"):
            names[f"{prefix}.se_module.cSE.{fc}.weight"], names[f"{prefix}.se_module.cSE.{fc}.bias"] = [c, c], [c]
        names[f"{prefix}.se_module.sSE.conv.weight"] = [1, c, 1, 1, 1]
        names[f"{prefix}.se_module.sSE.conv.bias"] = [1]

    block("MLP", [8192, 512, 512, 512])
    block("scalar_rwd_head_BT", [512, 256, 128, 1])
    block("scalar_rwd_head", [512, 256, 128, 1])
    block("scalar_rwd_head_pairs", [1024, 256, 128, 2])
    widths = [8, 16, 32, 64, 128, 256]
    for i, (before, c) in enumerate(zip([1, *widths], widths)):
        prefix = f"Conv3DModule.encoders.{i}.basic_module"
        names[f"{prefix}.conv1.weight"], names[f"{prefix}.conv1.bias"] = [c, before, 1, 1, 1], [c]
        residual(prefix, c)
    for j, (deep, c) in enumerate(zip(widths[::-1], widths[-2::-1])):
        prefix = f"Conv3DModule.decoders.{j}"
        names[f"{prefix}.upsampling.upsample.conv_transposed.weight"] = [deep, c, 3, 3, 3]
        residual(f"{prefix}.basic_module", c)
    for name, shape in (("final_conv", [8, 8, 1, 1, 1]), ("conv3d_for_recon", [1] * 5), ("conv1d_for_recon", [1] * 3)):
        names[f"Conv3DModule.{name}.weight"], names[f"Conv3DModule.{name}.bias"] = shape, shape[:1]
    return names


def test_published_names_shapes_and_counts():
    with torch.device("meta"):
        model = RewardModel(ModelConfig())
    found = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert found == published_names()
    assert len(found) == 179
    assert sum(p.numel() for p in model.Conv3DModule.parameters()) == 7_342_311
    assert sum(p.numel() for p in model.parameters()) == 12_686_699


@pytest.mark.skipif(not GOLDEN.is_file(), reason="tests/golden/reward_sigma_unet.npz is not there")
def test_small_golden_array():
    model, golden = RewardModel(ModelConfig()), np.load(GOLDEN)
    for name, tensor in model.state_dict().items():
        base = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(tensor.shape))
        base = torch.from_numpy(base.astype(np.float32))
        if name.endswith("groupnorm.weight"):
            base = 1 + 0.1 * base
        elif name.endswith(".bias"):
            base = 0.1 * base
        else:
            base = base / float(np.prod(tensor.shape[1:])) ** 0.5
        tensor.copy_(base)
    x = torch.from_numpy(np.random.RandomState(11).uniform(0, 100, (33, 36, 32)).astype(np.float32))
    x = ((x - x.min()) / (x.max() - x.min()) * 100)[None, None].requires_grad_()
    feature, recon = model.encode(x)
    f = model.trunk(feature)
    (grad,) = torch.autograd.grad(model.scalar(f).sum(), x)
    ours = {
        "feature": feature[0, ::16],
        "trunk": f[0],
        "scalar": model.scalar(f),
        "bt": model.bt(f),
        "pairs_with_reversed_trunk": model.pairs(f, f.flip(1))[0],
        "recon": recon[0, 0, ::8, ::8, ::8],
        "grad_norm": grad.norm()[None],
        "grad_max": grad.abs().max()[None],
    }
    for name, value in ours.items():
        expected = golden[f"small_{name}"]
        assert np.abs(value.detach().numpy() - expected).max() <= 1e-4 * np.abs(expected).max(), name


@pytest.mark.parametrize(("depth", "size"), [(129, 8192), (33, 512), (9, 9), (9, 4), (5, 12)])
def test_feature_is_adaptive_max_pooling(depth, size):
    m = torch.randn(2, 3, depth, 5, 4)
    expected = F.adaptive_max_pool3d(m.amax(1, keepdim=True), (size, 1, 1)).flatten(1)
    torch.testing.assert_close(depth_profile_feature(m, size), expected, rtol=0, atol=0)


def test_feature_carries_one_number_per_slice():
    m = torch.randn(1, 2, 129, 3, 3)
    assert len(depth_profile_feature(m, 8192).unique()) <= 129


def test_doubled_residual():
    """Published weights need v = 2u before the last hidden layer; `none` is v = u."""
    assert PUBLISHED_RESIDUAL == ScoreHeadsConfig().residual == "doubled"
    block = MLPBlock(3, [4, 5], 2)
    x = torch.randn(7, 3)
    hidden = block.hidden_layers[0][0]
    u = block.input_layer(x)
    torch.testing.assert_close(block(x), block.output_layer(F.softplus(hidden(2 * u))))
    block.residual = "none"
    torch.testing.assert_close(block(x), block.output_layer(F.softplus(hidden(u))))


def test_three_hidden_sizes_add_the_first_to_the_last():
    block = MLPBlock(3, [4, 4, 5], 2, activation="relu")
    x = torch.randn(7, 3)
    u = block.input_layer(x)
    v = F.relu(block.hidden_layers[0](u)) + u
    torch.testing.assert_close(block(x), block.output_layer(F.relu(block.hidden_layers[1](v))))


def test_items_do_not_see_each_other_and_gradients_flow():
    torch.manual_seed(0)
    model = build_model(tiny_config()).double()
    x = (100 * torch.rand(3, 1, 9, 8, 7, dtype=torch.float64)).requires_grad_()
    together = model(x)
    torch.testing.assert_close(together, torch.cat([model(item[None]) for item in x]))
    (grad,) = torch.autograd.grad(together[1], x)
    assert grad[1].abs().sum() > 0
    assert grad[0].abs().sum() == grad[2].abs().sum() == 0


def test_input_gradient_against_differences():
    torch.manual_seed(0)
    model = build_model(tiny_config()).double()
    x = (100 * torch.rand(1, 1, 6, 5, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: model(v), (x,), eps=1e-6, atol=1e-5, nondet_tol=0)


@pytest.mark.parametrize("option", ["is_checkpointed", "is_channels_last"])
def test_speed_options_keep_the_numbers(option):
    torch.manual_seed(0)
    cfg = tiny_config()
    model = build_model(cfg)
    other_cfg = tiny_config()
    other_cfg.backbone = SigmaUNetConfig(**{**vars(TINY), option: True})
    other = build_model(other_cfg)
    other.load_state_dict(model.state_dict())
    x = 100 * torch.rand(2, 1, 9, 8, 7)
    results = []
    for net in (model, other):
        score = net(x).sum()
        score.backward()
        results.append((score.detach(), net.Conv3DModule.encoders[0].basic_module.conv2.conv.weight.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_bf16_stays_close():
    torch.manual_seed(0)
    model = build_model(tiny_config())
    x = 100 * torch.rand(2, 1, 9, 8, 7)
    exact, _ = model.encode(x)
    model.Conv3DModule.cfg = SigmaUNetConfig(**{**vars(TINY), "precision": "bf16"})
    rough, recon = model.encode(x)
    assert rough.dtype == recon.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_reconstruction_has_the_input_shape():
    x = 100 * torch.rand(2, 1, 11, 9, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        feature, recon = build_model(tiny_config()).encode(x)
    assert recon.shape == x.shape
    assert feature.shape == (2, 20)


@pytest.mark.parametrize(
    ("shape", "text"),
    [((1, 9, 9, 9), "N, 1, Z, Y, X"), ((1, 2, 9, 9, 9), "N, 1, Z, Y, X"), ((1, 1, 9, 3, 9), "below 4")],
)
def test_wrong_input_is_refused(shape, text):
    with pytest.raises(ValueError, match=text):
        build_model(tiny_config()).encode(torch.rand(shape))


def test_faults_of_a_config_are_all_named():
    unet = SigmaUNetConfig(name="sigma_unet4d", f_maps=[8, 12], precision="fp8")
    cfg = ModelConfig(unet, ScoreHeadsConfig(activation="tanh"))
    with pytest.raises(ValueError) as error:
        build_model(cfg)
    for name in ("backbone.name", "backbone.f_maps", "backbone.precision", "heads.activation"):
        assert name in str(error.value)
    assert "\n" not in str(error.value)
