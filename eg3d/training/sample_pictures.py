"""Pictures of a run: real images once, and the same latents and cameras drawn at every snapshot."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from eg3d.data import ImageDataset
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.pictures import depth_to_rgb, save_grid

GRID_SEED_OFFSET = 1_000_003  # the pictures' own random stream, apart from training's
NUM_AT_ONCE = 4  # pictures a forward pass


class SamplePictures:
    """Grids of `columns` x `rows` pictures in a run folder: reals.png, fakesNNNNNNNNN.png, _raw.png and _depth.png."""

    def __init__(self, folder: Path, dataset: ImageDataset, grid: list[int], *, z_dim: int, seed: int) -> None:
        self._folder, self._dataset, (self._columns, rows) = folder, dataset, grid
        self._count = self._columns * rows
        rng = torch.Generator().manual_seed(seed + GRID_SEED_OFFSET)
        self._z = torch.randn(self._count, z_dim, generator=rng)
        self._c = dataset.labels[torch.randint(len(dataset), (self._count,), generator=rng)]

    def save_reals(self) -> None:
        """The first images of the data set."""
        images = self._dataset.images(list(range(min(self._count, len(self._dataset))))).float() / 127.5 - 1
        save_grid(images, self._folder / "reals.png", columns=self._columns)

    @torch.no_grad()
    def save_fakes(self, generator: TriPlaneGenerator, num_images: int) -> None:
        """Final image, raw image and depth of every sample; the files are named by the images shown so far.

        Raises RuntimeError, and writes nothing, when a pixel is not finite: such weights make no pictures any more.
        """
        device = next(generator.parameters()).device
        made: dict[str, list[Tensor]] = {"image": [], "image_raw": [], "image_depth": []}
        for z, c in zip(self._z.split(NUM_AT_ONCE), self._c.split(NUM_AT_ONCE), strict=True):
            rendered = generator(z.to(device), c.to(device))
            for name, parts in made.items():
                parts.append(getattr(rendered, name).cpu())
        if not all(part.isfinite().all() for parts in made.values() for part in parts):
            raise RuntimeError(
                f"{self._folder}: pictures after {num_images} images are not finite: training diverged; the files "
                "there are of the last good moment; give lower learning rates, or another start"
            )
        pictures = {"": torch.cat(made["image"]), "_raw": torch.cat(made["image_raw"])}
        pictures["_depth"] = depth_to_rgb(torch.cat(made["image_depth"]))
        for suffix, images in pictures.items():
            save_grid(images, self._folder / f"fakes{num_images:09d}{suffix}.png", columns=self._columns)
