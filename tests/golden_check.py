"""Compare our networks with golden arrays: python tests/golden_check.py DIR [--salt TEXT].

Every weight is made from its state-dict name by a fixed rule, so that two implementations can hold the same full-size
weights without sharing a file. For each .npz of DIR that we have networks for, each array is computed again and the
largest relative error, max |ours - golden| / max |golden|, is printed. Exit status 1 if one is above 1e-4, missing or
not finite. A salt stands before every name when hashing; DIR then holds arrays made with that salt.

A new network is one more entry of RUNNERS: a file-name pattern and a function that yields (array name, our array).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # float32 sums in another order; the arrays are figures of single precision runs
Golden = Mapping[str, np.ndarray]
Arrays = Iterator[tuple[str, np.ndarray]]
Rule = Callable[[str, np.ndarray], np.ndarray | None]


# ---------------------------------------------------------------------------------------------- weights from names


def set_named_weights(module: nn.Module, rule: Rule, salt: str = "") -> None:
    """Fill every entry of the state dict with rule(name, base), base being the standard normal draw of the name."""
    for name, tensor in module.state_dict().items():
        base = np.random.RandomState(crc32(f"{salt}{name}".encode())).standard_normal(tuple(tensor.shape))
        value = rule(name, np.asarray(base, dtype=np.float32))
        if value is not None:
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(value)).view(tensor.shape))


def generator_rule(name: str, base: np.ndarray) -> np.ndarray | None:
    """Weights of generators and discriminators; None leaves the entry as constructed."""
    if name.endswith("resample_filter") or name == "dataset_label_std":
        return None
    if name.endswith("affine.bias"):
        return 1 + np.float32(0.1) * base
    if name.endswith(("noise_strength", ".bias", "w_avg")):
        return np.float32(0.1) * base
    if re.search(r"(^|\.)mapping\.fc\d+\.weight$", name):
        return np.float32(100) * base
    return base


def reward_rule(name: str, base: np.ndarray) -> np.ndarray:
    """Weights of the reward U-Net and its heads: unit gain, norms close to the identity."""
    if name.endswith("groupnorm.weight"):
        return 1 + np.float32(0.1) * base
    if name.endswith("bias"):
        return np.float32(0.1) * base
    return (base / np.sqrt(np.prod(base.shape[1:]))).astype(np.float32)


# ---------------------------------------------------------------------------------------------- generators


def _generator(variant: str, salt: str) -> nn.Module:
    from eg3d.generators import eg3d as generator

    presets = {
        "ffhq512-128": generator.ffhq512_128,
        "afhq512-128": generator.afhq512_128,
        "shapenet128-64": generator.shapenet128_64,
    }
    with torch.no_grad():
        G = generator.TriPlaneGenerator(presets[variant]())
        set_named_weights(G, generator_rule, salt)
    return G.eval().requires_grad_(False)


def _thinned(x: Tensor, rows: int, columns: int, step: int) -> np.ndarray:
    return x[:, :, rows::step, columns::step].numpy()


def run_generator(file: str, golden: Golden, salt: str) -> Arrays:
    """Style codes, planes, point queries and two views, for the seeds and arrays that the file holds."""
    variant = file.removeprefix("eg3d_").removesuffix(".npz")
    G = _generator(variant, salt)
    camera = G.cfg.camera
    labels = camera.label(torch.tensor([0.0, 0.4]), torch.tensor([0.0, -0.2]))
    yield "labels", labels.numpy()
    for seed in sorted({int(m.group(1)) for m in (re.match(r"s(\d+)_", name) for name in golden) if m}):
        yield from _one_seed(G, seed, labels, [name for name in golden if name.startswith(f"s{seed}_")])


def _one_seed(G: nn.Module, seed: int, labels: Tensor, wanted: list[str]) -> Arrays:
    from eg3d.seeds import latent

    z, front = latent(seed), labels[:1]
    for psi, cutoff in ((1.0, None), (0.7, 14), (0.5, 7)):
        ws = G.mapping(z, front, truncation_psi=psi, truncation_cutoff=cutoff)
        yield f"s{seed}_ws_psi{psi}", ws[:, ::5, ::16].numpy()
    ws = G.mapping(z, front, truncation_psi=0.7, truncation_cutoff=14)
    field = G.field(ws, noise_mode="const")
    flat = field.planes.flatten(1, 2)
    yield f"s{seed}_planes", flat[:, ::8, 3::32, 5::32].numpy()
    yield f"s{seed}_planes_moments", _moments(flat, largest=True)
    cube = np.random.RandomState(1000 + seed).uniform(-0.62, 0.62, (1, 2048, 3)).astype(np.float32)
    points = torch.from_numpy(cube * np.float32(G.cfg.rendering.box_warp))
    sigma_raw, rgb = field.density_and_color(points)
    yield f"s{seed}_sigma_pts", sigma_raw.flatten().numpy()
    yield f"s{seed}_rgb_pts", rgb[0, :256].numpy()
    for view, label in zip(("front", "side"), labels.split(1), strict=True):
        if any(name.startswith(f"s{seed}_{view}_") for name in wanted):
            yield from _one_view(G, field, ws, label, f"s{seed}_{view}")


def _one_view(G: nn.Module, field: Any, ws: Tensor, label: Tensor, prefix: str) -> Arrays:
    out = G.render(field, ws, label)
    step, raw_step = G.cfg.img_resolution // 32, max(G.neural_rendering_resolution // 32, 1)
    yield f"{prefix}_image", _thinned(out.final, 3, 5, step)
    yield f"{prefix}_image_moments", _moments(out.final)
    yield f"{prefix}_image_raw", _thinned(out.image_raw, 1, 2, raw_step)
    yield f"{prefix}_depth", _thinned(out.image_depth, 1, 2, raw_step)


def _moments(x: Tensor, *, largest: bool = False) -> np.ndarray:
    x = x.double()
    return np.array([x.mean(), x.std(correction=0)] + ([x.abs().max()] if largest else []))


# ---------------------------------------------------------------------------------------------- discriminators


@contextlib.contextmanager
def _plain_convolutions() -> Iterator[None]:
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def run_discriminator(file: str, golden: Golden, salt: str) -> Arrays:
    """Logits and gradients with respect to both images (the quantities of the R1 penalty)."""
    from eg3d.networks.discriminator import DiscriminatorConfig, DualDiscriminator

    side, raw_side = (int(number) for number in re.search(r"(\d+)-(\d+)\.npz$", file).groups())
    with torch.no_grad():
        D = DualDiscriminator(DiscriminatorConfig(img_resolution=side))
        set_named_weights(D, generator_rule, salt)
    D.eval().requires_grad_(False)
    random = np.random.RandomState(7)
    image, image_raw = (
        torch.from_numpy(random.standard_normal((4, 3, s, s)).astype(np.float32)).requires_grad_(True)
        for s in (side, raw_side)
    )
    # These gradients jump when rounding changes the sign of one leaky ReLU's input: two right implementations can
    # differ by 2e-4. PyTorch's plain convolution adds in the order of the stored run; oneDNN's order is another one
    # and depends on the number of threads.
    with _plain_convolutions():
        logits = D({"image": image, "image_raw": image_raw}, torch.from_numpy(golden["labels"]))
        grad, grad_raw = torch.autograd.grad(logits.sum(), (image, image_raw))
    yield "labels", golden["labels"]
    yield "logits", logits.detach().numpy()
    yield "r1_image", grad.square().sum((1, 2, 3)).numpy()
    yield "r1_image_raw", grad_raw.square().sum((1, 2, 3)).numpy()
    yield "grad_image_row", grad[0, :, side // 2, ::8].numpy()


# ---------------------------------------------------------------------------------------------- density grids


def run_density(file: str, golden: Golden, salt: str) -> Arrays:
    """The published slab and the 64^3 grid of the consistency loss, on the skewed grid."""
    from eg3d.ops.density_grid.grid import GridSpec
    from eg3d.representations.sigma_field import SigmaField
    from eg3d.samples import SampleConfig, sample_seeds
    from reward_model_training.data.transforms import normalise_sigma_self

    G = _generator("ffhq512-128", salt)
    seed = int(re.search(r"seed(\d+)", file).group(1))
    for psi in (1.0, 0.7):
        sample = sample_seeds(G, [seed], SampleConfig(psi=psi, conditioning="published"))
        slab = SigmaField(grid="skewed").extract(G, sample)
        yield f"slab_psi{psi}", slab[0, ::8, ::8, ::8].numpy()
        whole = slab.double()
        yield f"slab_psi{psi}_min_max_mean", np.array([whole.min(), whole.max(), whole.mean()])
        if psi == 1.0:
            yield "normalised_slab", normalise_sigma_self(slab)[0, ::8, ::8, ::8].numpy()
        grid = sample.field.density_grid(GridSpec(64, "skewed"))
        yield f"grid64_psi{psi}", grid[0, ::4, ::4, ::4].numpy()
        yield f"grid64_psi{psi}_mean_abs", grid.double().abs().mean().reshape(1).numpy()


# ---------------------------------------------------------------------------------------------- reward model

REWARD_INPUTS = {"small": (11, (33, 36, 32)), "full": (12, (129, 141, 128))}  # seed, shape (z, y, x)


def run_reward_unet(file: str, golden: Golden, salt: str) -> Arrays:
    """Feature, trunk, heads, reconstruction and input gradient of the density reward."""
    from reward_model_training.models import ModelConfig, build_model

    with torch.no_grad():
        model = build_model(ModelConfig())
        set_named_weights(model, reward_rule, salt)
    model.eval().requires_grad_(False)
    for prefix, (seed, shape) in REWARD_INPUTS.items():
        if not any(name.startswith(f"{prefix}_") for name in golden):
            continue
        x = np.random.RandomState(seed).uniform(0, 100, shape).astype(np.float32)
        x = torch.from_numpy((x - x.min()) / (x.max() - x.min()) * 100)[None, None].requires_grad_(True)
        feature, recon = model.encode(x)
        f = model.trunk(feature)
        (grad,) = torch.autograd.grad(model.scalar(f).sum(), x)
        yield f"{prefix}_feature", feature.detach().flatten()[::16].numpy()
        yield f"{prefix}_trunk", f.detach().flatten().numpy()
        yield f"{prefix}_scalar", model.scalar(f).detach().flatten().numpy()
        yield f"{prefix}_bt", model.bt(f).detach().flatten().numpy()
        yield f"{prefix}_pairs_with_reversed_trunk", model.pairs(f, f.flip(-1)).detach().flatten().numpy()
        yield f"{prefix}_recon", recon.detach()[0, 0, ::8, ::8, ::8].numpy()
        yield f"{prefix}_grad_norm", grad.double().norm().reshape(1).numpy()
        yield f"{prefix}_grad_max", grad.abs().max().reshape(1).numpy()


# ---------------------------------------------------------------------------------------------- comparing

RUNNERS: dict[str, Callable[[str, Golden, str], Arrays]] = {
    r"eg3d_(ffhq512-128|afhq512-128|shapenet128-64)\.npz": run_generator,
    r"eg3d_discriminator_\w+-\d+\.npz": run_discriminator,
    r"density_skewed_ffhq_seed\d+\.npz": run_density,
    r"reward_sigma_unet\.npz": run_reward_unet,
}


def relative_error(ours: np.ndarray, golden: np.ndarray) -> float:
    """max |ours - golden| / max |golden|; infinite for another shape or values that are not finite."""
    if ours.shape != golden.shape or not np.isfinite(ours).all():
        return float("inf")
    scale = np.abs(golden).max(initial=0.0)
    difference = np.abs(ours.astype(np.float64) - golden.astype(np.float64)).max(initial=0.0)
    return float(difference / scale) if scale > 0 else float(difference)


def check_file(path: Path, salt: str = "") -> dict[str, float] | None:
    """Relative error of every array of a file (infinite where we computed none); None without a runner."""
    runner = next((run for pattern, run in RUNNERS.items() if re.fullmatch(pattern, path.name)), None)
    if runner is None:
        return None
    with np.load(path, allow_pickle=False) as data:
        golden = {name: data[name] for name in data.files}
    errors = dict.fromkeys(golden, float("inf"))
    for name, ours in runner(path.name, golden, salt):
        if name in golden:
            errors[name] = relative_error(ours, golden[name])
    return errors


def main(arguments: list[str] | None = None) -> int:
    """Check all files of a folder; 0 if every array agrees."""
    parser = argparse.ArgumentParser(description="Compare our networks with golden arrays.")
    parser.add_argument("dir", type=Path, help="folder with .npz files")
    parser.add_argument("--salt", default="", help="text before every name when hashing")
    options = parser.parse_args(arguments)
    files = sorted(options.dir.glob("*.npz"))
    if not files:
        print(f"error: no .npz files in {options.dir}", file=sys.stderr)
        return 1
    worst, num_checked = 0.0, 0
    for path in files:
        errors = check_file(path, options.salt)
        if errors is None:
            print(f"{path.name}: no network for this file yet")
            continue
        print(path.name)
        for name, error in errors.items():
            print(f"  {name:36s} {error:9.2e}{'' if error <= TOLERANCE else '  FAILED'}", flush=True)
        worst, num_checked = max([worst, *errors.values()]), num_checked + len(errors)
        gc.collect()
    is_fine = num_checked > 0 and worst <= TOLERANCE
    print(f"{'agree' if is_fine else 'DISAGREE'}: {num_checked} arrays, largest relative error {worst:.2e}")
    return 0 if is_fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
