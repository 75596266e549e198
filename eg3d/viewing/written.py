"""What a command wrote, and the seeds or frames that had no surface to write."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from eg3d.fields.protocol import Field
from eg3d.representations.shape import NoSurface, ShapeConfig, write_shape


@dataclass
class Written:
    """Grows while a command works. A density that never crosses the level has no mesh and stops nothing."""

    files: list[Path] = field(default_factory=list)
    without_surface: dict[str, str] = field(default_factory=dict)  # name of the missing file without suffix: why

    def add_shape(self, field: Field, stem: Path, cfg: ShapeConfig) -> None:
        """Write the shape of one sample's field, or note that there is none."""
        try:
            self.files.append(write_shape(field, stem, cfg))
        except NoSurface as error:
            self.without_surface[stem.name] = str(error)

    def check_surfaces(self) -> None:
        """Raise ValueError, with the first reason, if any mesh is missing; for the end of a command."""
        if self.without_surface:
            names = list(self.without_surface)
            listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(f"no mesh of {listed} ({len(names)} in all); {self.without_surface[names[0]]}")
