"""The parametric body that heads are taken from: anny, whose shapes are MakeHuman's (CC0) and whose code is Apache-2.0.

Only the build needs it. Its first run takes minutes and more than a gigabyte of cache, in the folders that
ANNY_CACHE_DIR and WARP_CACHE_PATH name. Its world is turned to ours here: y up, face towards +z, the subject's left at
+x, metres.
Shape letters: N heads, V vertices of the whole body, F triangles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from eg3d.installation import install_hint

BATCH = 30  # heads computed together
# Labels of anny's segmentation of its texture, and what they are here.
PARTS = {
    "tongue": ("tongue",),
    "right_eye": ("eye_back.R", "eye_front.R"),
    "left_eye": ("eye_back.L", "eye_front.L"),
    "right_socket": ("eye_cavity.R",),
    "left_socket": ("eye_cavity.L",),
    "mouth": ("mouth_cavity",),
    "head": ("head",),
}


@dataclass(frozen=True)
class BodyInputs:
    """What shapes N bodies, in the order of the body's labels; float64 each."""

    phenotypes: np.ndarray  # [N, P]
    local_changes: np.ndarray  # [N, L]
    facial_actions: np.ndarray  # [N, A]

    def __len__(self) -> int:
        return len(self.phenotypes)

    def part(self, rows: slice) -> BodyInputs:
        """Some of the bodies."""
        return BodyInputs(self.phenotypes[rows], self.local_changes[rows], self.facial_actions[rows])


class Body:
    """anny with all its phenotypes, local changes and facial actions."""

    def __init__(self) -> None:
        self._model, self.version = _anny()
        self.phenotype_labels: list[str] = list(self._model.phenotype_labels)
        self.local_change_labels: list[str] = list(self._model.local_change_labels)
        self.facial_action_labels: list[str] = list(self._model.facial_action_labels)
        self.faces: np.ndarray = self._model.faces.numpy()  # [F, 3]
        self.parts: dict[str, np.ndarray] = {name: self._part(labels) for name, labels in PARTS.items()}  # bool [F]

    def neutral(self, count: int = 1) -> BodyInputs:
        """Inputs of `count` default bodies, to be changed."""
        labels = (self.phenotype_labels, self.local_change_labels, self.facial_action_labels)
        phenotypes, local_changes, actions = (np.zeros((count, len(names))) for names in labels)
        return BodyInputs(phenotypes + 0.5, local_changes, actions)

    def vertices(self, inputs: BodyInputs) -> np.ndarray:
        """Vertices [N, V, 3] of the whole bodies in metres, float64, y up and the face towards +z."""
        import torch

        rows = []
        for start in range(0, len(inputs), BATCH):
            part = slice(start, start + BATCH)
            with torch.no_grad():
                made = self._model(
                    phenotype_kwargs=torch.from_numpy(inputs.phenotypes[part]),
                    local_changes_kwargs=torch.from_numpy(inputs.local_changes[part]),
                    facial_actions=torch.from_numpy(inputs.facial_actions[part]),
                )
            rows.append(made["vertices"].numpy())
        found = np.concatenate(rows)
        return np.stack([found[..., 0], found[..., 2], -found[..., 1]], axis=-1)

    def _part(self, labels: tuple[str, ...]) -> np.ndarray:
        from anny.face_segmentation import get_face_segmentation_mask

        return get_face_segmentation_mask(self._model, list(labels)).numpy()


def _anny() -> tuple[Any, str]:
    try:
        import anny
    except ImportError as error:
        raise RuntimeError(f"making the head model needs anny ({error}); {install_hint('heads')}") from None
    model = anny.Anny(phenotypes="all", local_changes="all", facial_actions="all")
    return model, anny.__version__
