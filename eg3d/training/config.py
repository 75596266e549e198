"""What a generator training run can be told: python -m eg3d.train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eg3d.config_checks import at_least, batch_faults, one_of
from eg3d.generators.eg3d import GeneratorConfig
from eg3d.networks.augment import AugmentConfig
from eg3d.networks.discriminator import DiscriminatorConfig
from eg3d.training.loaded import change_faults
from eg3d.training.nonfinite import MODES as NONFINITE

AUGMENTATIONS = ("none", "ada", "fixed")
DENSITY_REG_TYPES = ("l1", "monotonic-detach", "monotonic-fixed")
# What may change when a stopped run continues: where and how fast it runs, how long, and how often it writes what.
FREE = (
    *("out", "resume", "device", "threads", "workers", "cudnn_benchmark", "micro_batch"),
    *("max_skips", "total_kimg", "tick_kimg", "snapshot_ticks", "grid"),
)


@dataclass
class OptimConfig:
    """Adam for both networks; a lazy regulariser scales rate and betas by interval/(interval+1)."""

    generator_lr: float = 0.0025
    discriminator_lr: float = 0.002
    beta1: float = 0.0
    beta2: float = 0.99
    eps: float = 1e-8

    def validate(self) -> list[str]:
        faults = at_least(self, 0, "generator_lr", "discriminator_lr", "eps")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                faults.append(f"{name}: {getattr(self, name)} is not in [0, 1)")
        return faults


@dataclass
class AdversarialLossConfig:
    """Adversarial losses and regularisers. Source: EG3D (2022), supplement."""

    r1_gamma: float = 1.0
    r1_interval: int = 16  # iterations; 0 = off
    density_reg: float = 0.25
    density_reg_interval: int = 4  # iterations; 0 = off
    density_reg_std: float = 0.004  # world units
    density_reg_points: int = 1000
    density_reg_type: str = "l1"  # l1 | monotonic-detach | monotonic-fixed: also, density must not fall away from +z
    lazy_gain: bool = True  # multiply a regulariser by its interval; False = the published fine-tuning fork
    swap_final: float | None = 0.5  # chance of a swapped conditioning camera; null = no conditioning
    swap_fade_kimg: float = 1000.0
    style_mixing_prob: float = 0.0  # share of samples whose later layers take the style of a second latent
    blur_init_sigma: float = 10.0  # pixels
    blur_fade_kimg: float = 200.0

    def validate(self) -> list[str]:
        faults = one_of("density_reg_type", self.density_reg_type, DENSITY_REG_TYPES)
        if self.swap_final is not None and not 0 <= self.swap_final <= 1:
            faults.append(f"swap_final: {self.swap_final} is not a probability; give 0 to 1 or null")
        if not 0 <= self.style_mixing_prob <= 1:
            faults.append(f"style_mixing_prob: {self.style_mixing_prob} is not a probability; give 0 to 1")
        intervals = ("r1_interval", "density_reg_interval")
        weights = ("r1_gamma", "density_reg", "density_reg_std", "blur_init_sigma")
        faults += at_least(self, 0, *intervals, *weights, "swap_fade_kimg", "blur_fade_kimg")
        return faults + at_least(self, 1, "density_reg_points")


@dataclass
class AugmentationConfig:
    """Augmentation of what the discriminator sees. Source: ADA (2020). Camera labels follow its geometry."""

    mode: str = "none"  # none | ada: p follows the discriminator's overfitting | fixed
    p: float = 0.2  # of mode fixed
    target: float = 0.6  # of mode ada: mean sign of the logits of real images
    interval: int = 4  # of mode ada: iterations between changes of p
    kimg: float = 500.0  # of mode ada: how long p takes from 0 to 1 at most
    pipe: AugmentConfig = field(default_factory=AugmentConfig)

    def validate(self) -> list[str]:
        faults = one_of("mode", self.mode, AUGMENTATIONS) + at_least(self, 1, "interval")
        if not 0 <= self.p <= 1:
            faults.append(f"p: {self.p} is not a probability; give 0 to 1")
        if not -1 <= self.target <= 1:
            faults.append(f"target: {self.target} is not a mean of signs; give -1 to 1")
        if self.kimg <= 0:
            faults.append(f"kimg: {self.kimg} is not positive")
        return faults


@dataclass
class WarmStartConfig:
    """Phases before adversarial training; all off in the published recipes.

    Reconstruction: the generator learns to render the data set's own heads from their known cameras, each head's latent
    being its parameters (`codes.npy`) in a fixed rotation of the latent space; with `depth_weight`, its density also
    learns their true depth maps. Then the discriminator alone.
    """

    reconstruction_kimg: float = 0.0
    reconstruction_lr: float = 0.003
    reconstruction_final_lr: float = 0.0005  # reached along a cosine at the end of the phase
    reconstruction_beta1: float = 0.9
    style_scale: float = 1.0  # multiplies the initial style weights: below 1, the common shape is learned first
    edge_weight: float = 1.0  # weight of the L1 of image gradients
    silhouette_weight: float = 0.0  # weight of |opacity - mask|; the mask is where an image is not black
    depth_weight: float = 0.0  # weight of the true depths (`depths.npy`) as air before, matter behind the surface
    depth_points: int = 4096  # points an image, along the rays of random pixels
    depth_band: float = 0.03  # world units, standard deviation of the half of the points that lie at the surface
    spread_weight: float = 0.0  # weight of the rays' depth variance, per world unit squared: turns fog into surfaces
    discriminator_kimg: float = 0.0

    def validate(self) -> list[str]:
        weights = ("edge_weight", "silhouette_weight", "depth_weight", "spread_weight")
        faults = at_least(self, 0, "reconstruction_kimg", "discriminator_kimg", "depth_band", *weights)
        return faults + at_least(self, 2, "depth_points")


@dataclass
class TrainConfig:
    """One training run of the generator."""

    out: str = "runs/train"
    data: str = "data/portraits64.zip"
    mirror: bool = False  # show every image a second time, mirrored, from the mirrored camera
    max_images: int | None = None  # train on a random subset of this size; null = all
    start: str | None = None  # networks to start from: a network file or a manifest name
    start_config: str = "file"  # networks as the file has them | own: as this config says, taking over what fits
    # What changes of networks that are loaded as their file has them: `precision` (of both), and `rendering.*` of the
    # generator, {rendering.depth_resolution: 64, precision: bf16}.
    start_changes: dict[str, Any] = field(default_factory=dict)
    start_net: str = "G"  # which generator of `start` is trained on: G (published) | G_ema, its average
    resume: bool = True  # continue the run in `out` when there is one
    accept_code_change: bool = False  # continue it although the code is no longer the one that it began with
    seed: int = 0
    device: str = "auto"
    threads: int = 0  # CPU threads; 0 = torch's choice
    workers: int = 2  # threads that decode images
    cudnn_benchmark: bool = False  # let cuDNN try its algorithms first: faster, not repeatable to the last bit
    batch: int = 32  # images a step, over all processes
    micro_batch: int = 0  # images a forward pass of one process; 0 = all of its share of the batch
    # What becomes of a step whose loss or gradient is not finite: skip = weights, optimiser and mean style code stay as
    # they were | published = NaN becomes 0 and infinity 1e5, and the step is taken, as in the released code.
    nonfinite: str = "skip"
    max_skips: int = 20  # steps of one phase in a row that may be skipped, before the run ends
    total_kimg: float = 25000.0
    tick_kimg: float = 4.0
    snapshot_ticks: int = 50
    grid: list[int] = field(default_factory=lambda: [8, 4])  # columns and rows of the sample pictures
    ema_kimg: float | None = None  # half-life of the weight average; null = batch * 10 / 32
    ema_rampup: float | None = 0.05  # null = none, as when starting from trained networks
    neural_resolution_final: int | None = None
    neural_resolution_fade_kimg: float = 1000.0
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: AdversarialLossConfig = field(default_factory=AdversarialLossConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def validate(self) -> list[str]:
        faults = [] if self.out else ["out: is empty; give a folder"]
        faults += batch_faults(self.batch, self.micro_batch) + one_of("start_net", self.start_net, ("G", "G_ema"))
        faults += one_of("start_config", self.start_config, ("file", "own")) + one_of(
            "nonfinite", self.nonfinite, NONFINITE
        )
        faults += change_faults(self.start_changes)
        if self.start_changes and not (self.start and self.start_config == "file"):
            faults.append(
                "start_changes: is for networks loaded with start and start_config=file; set generator.* instead"
            )
        if self.mirror and self.warm_start.reconstruction_kimg > 0:
            faults.append(
                "mirror: nobody knows the parameters of mirrored heads; give mirror=false or no reconstruction"
            )
        if self.max_images is not None and self.max_images < 1:
            faults.append(f"max_images: {self.max_images} is below 1; give null for all")
        if self.generator.img_resolution != self.discriminator.img_resolution:
            faults.append(
                f"discriminator.img_resolution: {self.discriminator.img_resolution} differs from the generator's "
                f"{self.generator.img_resolution}; give the same"
            )
        if len(self.grid) != 2 or min(self.grid) < 1:
            faults.append(f"grid: {list(self.grid)} is not [columns, rows]")
        if self.tick_kimg <= 0:
            faults.append(f"tick_kimg: {self.tick_kimg} is not positive")
        faults += at_least(self, 0, "seed", "threads", "total_kimg", "neural_resolution_fade_kimg")
        return faults + at_least(self, 1, "snapshot_ticks", "workers", "max_skips")
