"""Density slabs by seed: made on the fly, kept in memory, or cached on disk, with the same numbers each way.

Every way makes one seed at a time and rounds to half precision, as the published data are stored. On disk:

    <folder>/<key>/slabs.json      what the folder holds
    <folder>/<key>/s_<seed>.npy    float16 [X, Y, Z], raw density

`key` is a hash of the generator's SHA-256 and of the slab config, so that another generator, grid, crop or
truncation never meets these files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eg3d.progress import progress_bar
from eg3d.representations.sigma_field import SigmaFieldConfig, slab_shape
from eg3d.safe_write import atomic_path, write_json

STORAGES = ("memory", "disk", "on_the_fly")
SlabMaker = Callable[[int, SigmaFieldConfig], Tensor]  # seed, config -> raw density [X, Y, Z]


class SlabKey(NamedTuple):
    """One sample: its seed and how far its latent is truncated."""

    seed: int
    psi: float


class SlabStore:
    """Slabs of one source (a generator, named by its SHA-256) and one slab config."""

    def __init__(
        self,
        make: SlabMaker,
        cfg: SigmaFieldConfig,
        *,
        source: str,
        storage: str = "memory",
        folder: str | Path | None = None,
    ) -> None:
        """`make(seed, cfg)` gives a slab; `folder` is needed by storage "disk" only. Raises ValueError."""
        if storage not in STORAGES:
            raise ValueError(f"storage: {storage!r} is not one of {', '.join(STORAGES)}")
        if storage == "disk" and not folder:
            raise ValueError("storage 'disk' needs a folder for the slabs; give data.slab_dir=PATH")
        self._make, self.cfg, self.source, self.storage = make, cfg, source, storage
        self.folder = Path(folder) if folder else None
        self._kept: dict[SlabKey, Tensor] = {}
        self._described: set[Path] = set()

    def slab(self, key: SlabKey) -> Tensor:
        """Raw density [X, Y, Z], float16. Raises ValueError for a damaged cache file or a density beyond half."""
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

    def path(self, key: SlabKey) -> Path:
        """Where the disk cache keeps a slab."""
        cfg = replace(self.cfg, psi=float(key.psi))
        return Path(self.folder or ".") / cache_key(self.source, cfg) / f"s_{key.seed}.npy"

    def fill(self, keys: Iterable[SlabKey]) -> int:
        """Make every slab that is not there yet, under a progress bar; returns how many. Does nothing on the fly."""
        if self.storage == "on_the_fly":
            return 0
        is_there = self._kept.__contains__ if self.storage == "memory" else lambda k: self.path(k).is_file()
        missing = [key for key in dict.fromkeys(keys) if not is_there(key)]
        with progress_bar("slabs", len(missing)) as advance:
            for key in missing:
                self.slab(key)
                advance()
        return len(missing)

    def _made(self, key: SlabKey) -> Tensor:
        slab = self._make(key.seed, replace(self.cfg, psi=float(key.psi))).detach().to("cpu", torch.float16)
        if list(slab.shape) != list(slab_shape(self.cfg)):
            raise ValueError(f"seed {key.seed}: slab is {list(slab.shape)}, expected {list(slab_shape(self.cfg))}")
        if not torch.isfinite(slab).all():
            raise ValueError(
                f"seed {key.seed}: its density is not finite in half precision (limit 65504); check the generator"
            )
        return slab

    def _write(self, path: Path, key: SlabKey) -> None:
        cfg = replace(self.cfg, psi=float(key.psi))
        if path.parent not in self._described:
            if not (path.parent / "slabs.json").is_file():
                write_json(path.parent / "slabs.json", {"generator_sha256": self.source, "slab": asdict(cfg)})
            self._described.add(path.parent)
        with atomic_path(path) as temporary:
            np.save(temporary, self._made(key).numpy(), allow_pickle=False)

    def _read(self, path: Path) -> Tensor:
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path}: damaged slab file ({error}); delete it and it is made again") from None
        expected = slab_shape(self.cfg)
        if not isinstance(array, np.ndarray) or array.shape != expected or array.dtype != np.float16:
            found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "an archive"
            raise ValueError(
                f"{path}: expected float16 {list(expected)}, found {found}; delete it and it is made again"
            )
        return torch.from_numpy(array)


def cache_key(source: str, cfg: SigmaFieldConfig) -> str:
    """Name of the folder of one source and slab config (truncation included)."""
    text = json.dumps({"generator_sha256": source, "slab": asdict(cfg)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def generator_slabs(generator: str, *, device: str | torch.device = "cpu") -> tuple[SlabMaker, str]:
    """Slab maker and SHA-256 of a generator file or manifest name; the network loads when the first slab is made."""
    from eg3d.checkpoints.manifest import resolve
    from eg3d.file_hash import sha256_of

    path = resolve(generator)

    @lru_cache(maxsize=1)
    def network():
        from eg3d.checkpoints.store import load_generator

        return load_generator(path, device=device)

    def make(seed: int, cfg: SigmaFieldConfig) -> Tensor:
        from eg3d.representations.sigma_field import seed_slab

        return seed_slab(network(), seed, cfg)

    return make, sha256_of(path)
