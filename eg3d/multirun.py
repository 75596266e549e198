"""--multirun: every job of a sweep works in a place of its own, named by what the sweep changes.

`--multirun seed=1,2 out=runs/x` works in runs/x/seed=1 and runs/x/seed=2; where `out` is a file, its folder gets them:
data/seed=1/heads.zip. An `out` that differs from job to job already, swept or by interpolation, stays as it is.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

MAX_NAME = 120  # characters of a folder


@dataclass(frozen=True)
class Sweep:
    """A sweep's jobs, each as its overrides, and the keys that differ between them."""

    jobs: list[list[str]]
    keys: frozenset[str]

    def out(self, out: str, overrides: Sequence[str]) -> str:
        """Where the job of these overrides works, given the `out` that it shares with others."""
        path, name = Path(out), self._name(overrides)
        return str(path.parent / name / path.name if path.suffix else path / name)

    def folder(self, out: str) -> Path:
        """The folder that holds those of all jobs."""
        return Path(out).parent if Path(out).suffix else Path(out)

    def _name(self, overrides: Sequence[str]) -> str:
        words = (override.lstrip("+").partition("=") for override in overrides)
        text = "_".join(f"{key}={value}" for key, _, value in words if key in self.keys)
        name = re.sub(r"[^\w.,=+\[\]-]+", "-", text)
        return name if len(name) <= MAX_NAME else name[:MAX_NAME] + hashlib.sha256(text.encode()).hexdigest()[:8]


def sweep_of(overrides: Sequence[str]) -> Sweep:
    """The jobs of a command line with --multirun: every combination of its choices and ranges, as Hydra makes them.

    Raises HydraException or ValueError for a sweep that has no finite list of jobs.
    """
    lists, keys = [], set()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            lists.append([f"{key}={override.get_value_element_as_str()}"])
        elif override.is_discrete_sweep():
            keys.add(key.lstrip("+"))
            lists.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise ValueError(f"{override.input_line}: not a list of values to sweep over; give {key}=a,b,c")
    return Sweep([list(job) for job in itertools.product(*lists)], frozenset(keys))
