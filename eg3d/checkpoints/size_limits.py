"""The largest sizes that a file may announce for a network; beyond them a file is refused before anything is built.

They are far above every known network, and far below what would fill a machine or run for ever.
"""

from __future__ import annotations

from typing import Any

from eg3d.config_checks import configs_in

MOST = 1 << 14  # of any width, number of channels or resolution
_MOST_OF = {
    "channel_base": 1 << 20,
    "mapping_layers": 64,
    "depth_resolution": 1 << 10,
    "depth_resolution_importance": 1 << 10,
    "neural_rendering_resolution": 1 << 11,
}
MOST_REAL = 1e6  # of a length, an angle, a factor


def most_of(name: str) -> int:
    """The largest whole number for a setting of this name."""
    return _MOST_OF.get(name, MOST)


def size_faults(config: Any) -> list[str]:
    """One line for every number of a network's configuration, nested ones too, that is beyond all usual sizes."""
    faults = []
    for path, part in configs_in(config):
        for name, value in vars(part).items():
            for number in value if isinstance(value, (list, tuple)) else [value]:
                limit = MOST_REAL if isinstance(number, float) else most_of(name)
                if isinstance(number, (int, float)) and not abs(number) <= limit:
                    faults.append(f"{path}{name}: {_shown(number)} is beyond {limit:g}")
    return faults


def _shown(number: float) -> str:
    return f"{number:.6g}" if isinstance(number, float) or abs(number) < 1e100 else "a number of many digits"
