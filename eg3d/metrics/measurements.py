"""What is measured for a figure: features of real images, features of generated ones, path lengths.

Each measurement is a small value that can be sent to another process, opened on a device there, and asked for one group
of samples at a time. What a group gives depends on the measurement alone, never on which process or device number asks,
so that any number of them makes the same figures. Shape letters: N images of a group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

import eg3d
from eg3d.checkpoints.manifest import resolve
from eg3d.checkpoints.store import load_generator
from eg3d.data import ImageDataset
from eg3d.file_hash import sha256_of, sha256_of_files, sha256_of_folder
from eg3d.generators.protocol import Generator
from eg3d.metrics import ppl
from eg3d.metrics.detectors import DistanceDetector, detector_identity, load_detector
from eg3d.pictures import to_uint8
from eg3d.samples import SampleConfig, style_codes

Rows = dict[str, Tensor]  # names to tensors with one row a sample
Session = Callable[[range], Rows]

GROUP = 64  # samples measured together; generated in smaller batches
READ_THREADS = 4
# What decides the pixels of a generated image; a cached figure is dropped when any of these files changes.
_GENERATOR_CODE = (
    "generators",
    "fields",
    "samples.py",
    "cameras.py",
    "data.py",
    "random_streams.py",
    "networks",
    "rendering",
    "ops",
    "pictures.py",
    "metrics",
)
_IMAGE_CODE = ("data.py", "png.py", "cameras.py", "metrics")


class Measurement(Protocol):
    """A recipe for rows; plain data."""

    @property
    def group(self) -> int:
        """Samples measured together."""

    def identity(self, device: torch.device) -> dict[str, Any]:
        """Everything that changes the rows, as plain data; no path and no speed setting."""

    def open(self, device: torch.device) -> Session:
        """Load what is needed; the function returned measures the samples of one group."""


@dataclass(frozen=True)
class RealFeatures:
    """Features of a data set's images in its own order; mirrored copies, if asked for, follow after all of them."""

    data: str
    detector: str
    is_mirrored: bool = False

    @property
    def group(self) -> int:
        return GROUP

    def identity(self, device: torch.device) -> dict[str, Any]:
        return {
            "kind": "features of real images",
            "data": data_sha256(self.data),
            "resolution": ImageDataset(self.data).resolution,
            "is_mirrored": self.is_mirrored,
            "detector": detector_identity(self.detector),
            **_environment(device, _IMAGE_CODE),
        }

    def open(self, device: torch.device) -> Session:
        dataset = ImageDataset(self.data, mirror=self.is_mirrored)
        detector, pool = load_detector(self.detector, device=device), ThreadPoolExecutor(READ_THREADS)

        def measure(samples: range) -> Rows:
            images = torch.cat(list(pool.map(lambda index: dataset.images([index]), samples)))
            return {"features": detector.describe(images.to(device)).features.float().cpu()}

        return measure


@dataclass(frozen=True)
class GeneratedImages:
    """Images of a generator seen from cameras of a data set; conditioned on the same cameras, as published.

    Latents and cameras of sample i depend on (seed, i) alone; noise and jitter on (seed, batch number, batch).
    """

    network: str  # file, or name in checkpoints/manifest.json
    data: str  # whose camera labels are drawn
    seed: int = 0
    net: str = "G_ema"
    psi: float = 1.0
    truncation_cutoff: int | None = None
    noise_mode: str = "random"
    is_jittered: bool = True
    is_mirrored: bool = False  # labels of mirrored images are drawn too
    batch: int = 4  # images generated together

    def identity(self, device: torch.device) -> dict[str, Any]:
        recipe = {k: v for k, v in asdict(self).items() if k not in ("network", "data")}
        hashes = {"network": sha256_of(resolve(self.network)), "data": data_sha256(self.data)}
        return recipe | hashes | _environment(device, _GENERATOR_CODE)

    def open(self, device: torch.device) -> GeneratorSession:
        """The loaded generator. Raises ValueError if its images are not of the data set's size."""
        G = load_generator(self.network, net=self.net, device=device)
        dataset = ImageDataset(self.data, mirror=self.is_mirrored)
        if G.cfg.img_resolution != dataset.resolution:
            raise ValueError(
                f"{self.data} has images of {dataset.resolution} pixels, {self.network} makes {G.cfg.img_resolution}; "
                "resize them with 'python -m dataset_preprocessing.dataset_tool'"
            )
        return GeneratorSession(self, G, dataset.labels, device)


@dataclass(frozen=True)
class GeneratorSession:
    """A loaded generator with the labels that its cameras come from."""

    recipe: GeneratedImages
    G: Generator
    labels: Tensor  # [number of labels, 25]
    device: torch.device

    def latents_and_cameras(self, samples: range, *, per_camera: int = 1) -> tuple[Tensor, Tensor]:
        """Latents [N * per_camera, z_dim] and labels [N, 25] of samples, the same in whatever group they come."""
        z, rows = [], []
        for index in samples:
            rng = np.random.default_rng([self.recipe.seed, index])
            rows.append(int(rng.integers(len(self.labels))))
            z.append(rng.standard_normal((per_camera, self.G.z_dim), dtype=np.float32))
        return torch.from_numpy(np.concatenate(z)).to(self.device), self.labels[rows].to(self.device)

    def rng(self, samples: range) -> torch.Generator:
        """Noise and jitter of one batch."""
        words = np.random.SeedSequence([self.recipe.seed, samples.start, 1]).generate_state(2)
        return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))

    def pictures(self, ws: Tensor, c: Tensor, rng: torch.Generator) -> Tensor:
        """Pictures [N, 3, R, R], about -1 to 1, of style codes and cameras."""
        field = self.G.field(ws, noise_mode=self.recipe.noise_mode, rng=rng)
        needs_rng = self.recipe.is_jittered or self.G.cfg.superresolution_noise_mode == "random"
        return self.G.render(field, ws, c, rng=rng if needs_rng else None).final.float()

    def codes(self, z: Tensor, c: Tensor) -> Tensor:
        """Style codes [N, num_ws, w_dim] of latents [N, z_dim] and labels [N, 25], truncated by the recipe."""
        return style_codes(self.G, z, SampleConfig(self.recipe.psi, self.recipe.truncation_cutoff), c=c)


@dataclass(frozen=True)
class _OfGenerated:
    """What measurements of generated images share."""

    images: GeneratedImages
    detector: str
    kind: ClassVar[str]

    @property
    def group(self) -> int:
        return self.images.batch * max(1, GROUP // self.images.batch)

    def identity(self, device: torch.device) -> dict[str, Any]:
        detector = detector_identity(self.detector)
        return {"kind": self.kind, "detector": detector, "images": self.images.identity(device)}


@dataclass(frozen=True)
class FakeFeatures(_OfGenerated):
    """Features, and class probabilities where the detector has them, of generated images."""

    kind = "features of generated images"

    def open(self, device: torch.device) -> Session:
        session, detector = self.images.open(device), load_detector(self.detector, device=device)

        def generated(samples: range) -> Tensor:
            z, c = session.latents_and_cameras(samples)
            return to_uint8(session.pictures(session.codes(z, c), c, session.rng(samples)))

        def measure(samples: range) -> Rows:
            found = detector.describe(torch.cat([generated(part) for part in _batches(samples, self.images.batch)]))
            rows = {"features": found.features.float().cpu()}
            return rows if found.probabilities is None else rows | {"probabilities": found.probabilities.float().cpu()}

        return measure


@dataclass(frozen=True)
class PathLengths(_OfGenerated):
    """Perceptual distance over a step of ppl.EPSILON at the start of straight paths in w, over EPSILON squared.

    Both ends share camera, noise and jitter, so that only the code differs. Source: StyleGAN (2018), section 4.1.
    """

    kind = f"path lengths of step {ppl.EPSILON}"

    def open(self, device: torch.device) -> Session:
        session, detector = self.images.open(device), load_detector(self.detector, device=device)
        if not isinstance(detector, DistanceDetector):
            raise ValueError(f"detector {self.detector!r} compares no pictures; path lengths need vgg16 (LPIPS)")

        def lengths(samples: range) -> Tensor:
            z, c = session.latents_and_cameras(samples, per_camera=2)
            ends = ppl.step_ends(session.codes(z, c.repeat_interleave(2, dim=0)))
            pictures = [ppl.shrunk(session.pictures(ws, c, session.rng(samples))) for ws in ends]
            return (detector.distance(*pictures).double() / ppl.EPSILON**2).cpu()

        def measure(samples: range) -> Rows:
            return {"distances": torch.cat([lengths(part) for part in _batches(samples, self.images.batch)])}

        return measure


def _batches(samples: range, batch: int) -> list[range]:
    return [range(start, min(start + batch, samples.stop)) for start in range(samples.start, samples.stop, batch)]


def data_sha256(path: str | Path) -> str:
    """SHA-256 of a data set, a file or a folder."""
    path = Path(path)
    if path.is_file():
        state = path.stat()
        return _file_sha256(path.resolve(), state.st_size, state.st_mtime_ns)
    return sha256_of_folder(path)


@functools.lru_cache(maxsize=16)
def _file_sha256(path: Path, size: int, changed_ns: int) -> str:
    """SHA-256 of a file, computed once while its size and time stay: data sets are large."""
    return sha256_of(path)


def _environment(device: torch.device, code: tuple[str, ...]) -> dict[str, Any]:
    """The rest of what decides numbers: kind of device, torch, and our own code by its contents."""
    return {"device": device.type, "torch": torch.__version__, "code": _code_sha256(code)}


def _code_sha256(names: tuple[str, ...]) -> str:
    root = Path(eg3d.__path__[0])
    files = [path for name in names for path in ([root / name] if name.endswith(".py") else (root / name).rglob("*.*"))]
    sources = [file for file in files if file.is_file() and file.suffix != ".pyc"]
    return sha256_of_files({file.relative_to(root).as_posix(): file for file in sources})
