"""Representations by seed: made on the fly, kept in memory, or cached on disk, with the same numbers each way.

Every way makes one seed at a time and rounds as the published data are stored: volumes to half precision, anything else
to single. On disk:

    <folder>/<key>/about.json     what the folder holds
    <folder>/<key>/s_<seed>.npy   one representation, as extracted

`key` is a hash of the generator's SHA-256, of the representation and of how samples are made, so that another
generator, grid, crop, truncation or camera never meets these files. Letters: N samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eg3d.array_files import npy_bytes, parse_npy
from eg3d.progress import progress_bar
from eg3d.representations.protocol import Representation
from eg3d.representations.sigma_field import SigmaField
from eg3d.safe_write import atomic_path, write_json
from eg3d.samples import SampleConfig

STORAGES = ("memory", "disk", "on_the_fly")
STORED_TYPES = {"volume": torch.float16}  # by kind of representation; float32 for all others
Maker = Callable[[int, SampleConfig], Tensor]  # (seed, how it is sampled) -> its representation, without batch axis


class SampleKey(NamedTuple):
    """One sample: its seed, how far its latent is truncated, and whose it is."""

    seed: int
    psi: float
    generator: str = ""  # first digits of the SHA-256 of one of a store's `others`; "" = the store's own


class RepresentationStore:
    """One representation of the samples of one source (a generator, named by its SHA-256)."""

    def __init__(
        self,
        make: Maker,
        representation: Representation,
        sample: SampleConfig,
        *,
        source: str,
        storage: str = "memory",
        folder: str | Path | None = None,
        box_warp: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """The psi of `sample` is that of each key; `folder` is needed by storage "disk" only. Raises ValueError.

        box_warp: world units a side of the cube that the fields of the source fill, asked for when it is needed.
        """
        if storage not in STORAGES:
            raise ValueError(f"storage: {storage!r} is not one of {', '.join(STORAGES)}")
        if storage == "disk" and not folder:
            raise ValueError("storage 'disk' needs a folder; give data.store_dir=PATH")
        self._make, self.representation, self.sample = make, representation, sample
        self._box_warp = box_warp
        self.source, self.storage = source, storage
        self.folder = Path(folder) if folder else None
        self.stored_type = STORED_TYPES.get(representation.input_kind, torch.float32)
        self._kept: dict[SampleKey, Tensor] = {}
        self._described: set[Path] = set()
        self._shapes: dict[Path, list[int]] = {}  # of one sample, by folder of the cache
        self.others: dict[str, RepresentationStore] = {}  # of other generators, by the first digits of their SHA-256

    def get(self, key: SampleKey) -> Tensor:
        """The representation [...] of a sample, of `stored_type`. ValueError for a damaged file, or values beyond."""
        if key.generator:
            return self._of(key.generator).get(key._replace(generator=""))
        if self.storage == "on_the_fly":
            return self._made(key)
        if self.storage == "memory":
            if key not in self._kept:
                self._kept[key] = self._made(key)
            return self._kept[key]
        path = self.path(key)
        if not path.is_file():
            self._write(path, key)
        return self._read(path)

    def batch(self, keys: Iterable[SampleKey]) -> Tensor:
        """Representations [N, ...] of samples, float32."""
        return torch.stack([self.get(key).float() for key in keys])

    def voxel(self) -> float:
        """World units between neighbouring points of a density slab. Raises ValueError for another representation."""
        if not isinstance(self.representation, SigmaField):
            raise ValueError(f"{self.representation.name} has no voxels; damage needs a sigma_field")
        return self.representation.voxel(self._box_warp())

    def path(self, key: SampleKey) -> Path:
        """Where the disk cache keeps a sample."""
        if key.generator:
            return self._of(key.generator).path(key._replace(generator=""))
        text = json.dumps(self._about(key.psi), sort_keys=True)
        return Path(self.folder or ".") / hashlib.sha256(text.encode()).hexdigest()[:16] / f"s_{key.seed}.npy"

    def fill(self, keys: Iterable[SampleKey]) -> int:
        """Make every sample that is not there yet, under a progress bar; returns how many. Does nothing on the fly."""
        if self.storage == "on_the_fly":
            return 0
        missing = [key for key in dict.fromkeys(keys) if not self._has(key)]
        with progress_bar("representations", len(missing)) as advance:
            for key in missing:
                self.get(key)
                advance()
        return len(missing)

    def _of(self, generator: str) -> RepresentationStore:
        if generator not in self.others:
            raise ValueError(
                f"data.snapshots: the rankings have samples of a generator with SHA-256 {generator}..., which is none "
                f"of the {len(self.others)} given; give the files that they were made with"
            )
        return self.others[generator]

    def _has(self, key: SampleKey) -> bool:
        if key.generator:
            return self._of(key.generator)._has(key._replace(generator=""))
        return key in self._kept if self.storage == "memory" else self.path(key).is_file()

    def _about(self, psi: float) -> dict[str, Any]:
        """Everything that decides the numbers of a folder."""
        sample = asdict(replace(self.sample, psi=float(psi)))
        return {"generator_sha256": self.source, "representation": self.representation.settings(), "sample": sample}

    def _made(self, key: SampleKey) -> Tensor:
        x = self._make(key.seed, replace(self.sample, psi=float(key.psi))).detach().to("cpu", self.stored_type)
        if not torch.isfinite(x).all():
            limit = torch.finfo(self.stored_type).max
            raise ValueError(
                f"seed {key.seed}: its {self.representation.name} is not finite (limit {limit:g}); check the generator"
            )
        return x

    def _write(self, path: Path, key: SampleKey) -> None:
        x = self._made(key).numpy()
        if path.parent not in self._described:
            if not (path.parent / "about.json").is_file():
                write_json(path.parent / "about.json", {**self._about(key.psi), "shape": list(x.shape)})
            self._described.add(path.parent)
        with atomic_path(path) as temporary:
            temporary.write_bytes(npy_bytes(x))

    def _read(self, path: Path) -> Tensor:
        try:
            array = parse_npy(path.read_bytes())
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: damaged file ({error}); delete it and it is made again") from None
        if path.parent not in self._shapes:
            self._shapes[path.parent] = _shape_in(path.parent)
        shape, dtype = self._shapes[path.parent], str(self.stored_type).removeprefix("torch.")
        if list(array.shape) != shape or str(array.dtype) != dtype:
            found = f"{array.dtype} {list(array.shape)}"
            raise ValueError(f"{path}: expected {dtype} {shape}, found {found}; delete it and it is made again")
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: has numbers that are not finite; delete it and it is made again")
        return torch.from_numpy(array.copy())


def _shape_in(folder: Path) -> list[int]:
    """Shape of every sample in a folder of the cache, as its about.json says."""
    path = folder / "about.json"
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["shape"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({error!r}); delete the folder and it is made again") from None


def open_store(
    generator: str,
    representation: Representation,
    sample: SampleConfig,
    *,
    storage: str,
    folder: str | Path,
    device: str | torch.device,
) -> RepresentationStore:
    """The store of a generator file or manifest name; the network loads when the first sample is made."""
    from eg3d.checkpoints.manifest import resolve
    from eg3d.file_hash import sha256_of

    path = resolve(generator)

    @lru_cache(maxsize=1)
    def network():
        from eg3d.checkpoints.store import load_generator

        return load_generator(path, device=device)

    @torch.no_grad()
    def box_warp() -> float:
        from eg3d.samples import sample_seeds

        return float(sample_seeds(network(), [0], sample).field.box_warp)

    @torch.no_grad()
    def make(seed: int, cfg: SampleConfig) -> Tensor:
        from eg3d.samples import sample_seeds

        return representation.extract(network(), sample_seeds(network(), [seed], cfg))[0]

    return RepresentationStore(
        make, representation, sample, source=sha256_of(path), storage=storage, folder=folder, box_warp=box_warp
    )
