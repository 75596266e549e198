"""Sculpting NeRF geometry: fix the shape that a 3D-aware GAN makes, from nothing but people's rankings."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    if name == "__version__":
        from eg3d.installation import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
