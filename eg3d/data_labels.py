"""Camera labels of a data set: one reading of dataset.json, and one rule which label belongs to which image.

`labels` in dataset.json is a list of [path of an image, 25 numbers]. A label belongs to the image that it names. Where
it names none, these spellings are the same: backslashes for slashes; another suffix (a.jpg for a.png) or capitals, when
only one image and only one label can be meant; a whole set that lies, or says it lies, in one more folder. What is left
over is listed, never forgotten: images without a label, labels without an image. L labels.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eg3d.array_files import parse_npy
from eg3d.camera_checks import camera_faults, error_line, warning_lines
from eg3d.cameras import LABEL_SIZE
from eg3d.data_files import DataFiles, plain_name, shown
from eg3d.plain_data import refuse_code

TABLE = "dataset.json"
# NAME.npy: the names of its sides after the number of images.
OPTIONAL_ARRAYS = {"codes": ("K",), "depths": ("H", "H"), "normals": ("H", "H", "3")}
_MOST_TABLE_BYTES = 2**24  # of a table, and for every file of the set another
_MOST_ENTRY_BYTES = 2**11
_MOST_ARRAY_BYTES = {False: 2**40, True: 2**30}  # stored, and packed, which may be a thousandth of it on disk
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LabelTable:
    """What dataset.json says."""

    file: str  # its name within the set
    names: list[str]  # [L] as written
    labels: np.ndarray  # float64 [L, 25], finite and within float32
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where the set lies within its files: "" or a path that ends with a slash."""
        return self.file.removesuffix(TABLE)


@dataclass(frozen=True)
class MatchedLabels:
    """Which label belongs to which image."""

    rows: dict[str, int]  # name of an image -> row of the table, in the order of the images
    without_label: list[str]  # images
    without_image: list[str]  # labels, by the name that they give
    how: tuple[str, ...]  # the spellings, besides the exact one, that were needed


@dataclass(frozen=True)
class LabelledImages:
    """A set in which every image has a camera label, and every label an image."""

    table: LabelTable
    rows: dict[str, int]  # name of an image -> row of the table, sorted by name
    warnings: list[str]  # of cameras that are unlikely


def read_labelled(files: DataFiles) -> LabelledImages:
    """The labels of a whole data set. Raises ValueError in one line that counts what is missing or no camera."""
    table = read_table(files)
    if table is None:
        raise ValueError(f"{files.path}: no {TABLE}; EG3D needs a camera label for every image")
    if not table.names:
        raise ValueError(f"{files.path}: {table.file} has no labels; expected a list of [path, {LABEL_SIZE} numbers]")
    matched = match_labels(table, files.images())
    remedy = (
        "add what is missing, or write a set without these: python -m dataset_preprocessing.dataset_tool "
        f"--labelled-only --source {shlex.quote(str(files.path))} --dest NEW.zip"
    )
    if matched.without_image:
        raise ValueError(
            f"{files.path}: {table.file} names {shown(matched.without_image[0])}, which is not in the set as an image; "
            f"labels without an image: {counted(matched.without_image)}; {remedy}"
        )
    if matched.without_label:
        raise ValueError(f"{files.path}: images without a label: {counted(matched.without_label)}; {remedy}")
    files.check_all(matched.rows)
    return LabelledImages(table, matched.rows, check_cameras(files, table, matched.rows))


def check_cameras(files: DataFiles, table: LabelTable, rows: dict[str, int]) -> list[str]:
    """Lines about unlikely cameras among the labels of these images. Raises ValueError where some are no cameras."""
    faults, names = camera_faults(table.labels[list(rows.values())]), list(rows)
    if line := error_line(faults, names):
        raise ValueError(f"{files.path}: {table.file}: {line}")
    return warning_lines(faults, names)


def read_table(files: DataFiles) -> LabelTable | None:
    """dataset.json of a set, at its root or in the one folder that has one; None where there is none.

    `labels` may be null. Raises ValueError in one line that names the file for anything else that is no table.
    """
    name = _table_name(files)
    if name is None:
        return None
    where = f"{files.path}: {name}"
    table = _parsed_json(files.read(name, most=_MOST_TABLE_BYTES + _MOST_ENTRY_BYTES * len(files.names)), where)
    if not isinstance(table, dict):
        raise ValueError(f"{where} has no labels; expected an object with a list of [path, {LABEL_SIZE} numbers]")
    refuse_code({key: value for key, value in table.items() if key != "labels"}, where)  # labels are checked below
    entries = table.get("labels")
    entries = [] if entries is None else entries
    if not isinstance(entries, list):
        raise ValueError(
            f"{where}: labels must be a list of [path, {LABEL_SIZE} numbers] or null, got {type(entries).__name__}"
        )
    names = _checked_names(entries, where)
    return LabelTable(name, names, _checked_numbers(entries, where), _checked_recipe(table.get("recipe"), where))


def match_labels(table: LabelTable, images: Sequence[str]) -> MatchedLabels:
    """Labels and images put together by the rule of this module; `images` are names within the set."""
    there = set(images)
    place, how = _best_placement(table, images, there)
    by_name = _rows_by_name([place(name) for name in table.names])
    rows = {image: by_name[image] for image in images if image in by_name}
    if any("\\" in table.names[row] for row in rows.values()):
        how = [*how, "reading backslashes as slashes"]
    loose = [name for name in by_name if name not in there]
    if loose and len(rows) < len(images):
        found = _by_stem([image for image in images if image not in rows], loose)
        rows |= {image: by_name[name] for image, name in found.items()}
        how = [*how, "their names without suffix"] if found else how
    used = set(rows.values())
    return MatchedLabels(
        rows={image: rows[image] for image in images if image in rows},
        without_label=[image for image in images if image not in rows],
        without_image=[name for row, name in enumerate(table.names) if row not in used],
        how=tuple(how),
    )


def read_array(files: DataFiles, table: LabelTable, name: str) -> np.ndarray | None:
    """One of OPTIONAL_ARRAYS as float32, a row a label of the table; None where there is none.

    Raises ValueError if it is no array of len(table.names) rows of finite numbers.
    """
    file, shape = f"{table.folder}{name}.npy", OPTIONAL_ARRAYS[name]
    if file not in files:
        return None
    content = files.read(file, most=_MOST_ARRAY_BYTES[files.is_packed(file)])
    try:
        array = parse_npy(content)
    except ValueError as error:
        raise ValueError(f"{files.path}: {file} is not a readable array: {error}") from None
    if array.ndim != 1 + len(shape) or len(array) != len(table.names):
        wanted = ", ".join([str(len(table.names)), *shape])
        raise ValueError(f"{files.path}: {file} is {list(array.shape)}, expected [{wanted}]")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    # A NaN or an infinity is among the extremes; looking at each number for itself would take several times as long.
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise ValueError(f"{files.path}: {file} has numbers that are not finite or beyond float32")
    return array


def check_maps(files: DataFiles, name: str, maps: np.ndarray | None, height: int, width: int) -> None:
    """Raise ValueError for depth maps [N, H, H] or normals [N, H, H, 3] that have not the pixels of the images."""
    if maps is not None and maps.shape[1:3] != (height, width):
        sides = f"{maps.shape[2]} by {maps.shape[1]}"
        raise ValueError(f"{files.path}: {name}.npy has {sides} pixels, the images have {width} by {height}")
    if maps is not None and maps.ndim == 4 and maps.shape[3] != 3:
        raise ValueError(f"{files.path}: {name}.npy has {maps.shape[3]} numbers a pixel, expected 3")


def counted(names: Sequence[str], *, most: int = 3) -> str:
    """A number of names and the first of them: `12 (a.png, b.png, c.png, ...)`."""
    first = ", ".join(shown(name) for name in names[:most])
    return f"{len(names)} ({first}{', ...' if len(names) > most else ''})"


def _table_name(files: DataFiles) -> str | None:
    if TABLE in files:
        return TABLE
    found = [name for name in files.names if name.endswith(f"/{TABLE}")]
    if len(found) > 1:
        raise ValueError(f"{files.path}: holds several data sets, {TABLE}: {counted(found)}; give one of them")
    return found[0] if found else None


def _parsed_json(content: bytes, where: str) -> Any:
    try:
        return json.loads(content, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"{where} is not JSON that can be read (nested too deeply)") from None
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({shown(str(error))})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {shown(twice)!r} stands there more than once")
    return found


def _checked_names(entries: list[Any], where: str) -> list[str]:
    """Names of the entries, each of which must be a pair and the only one of its name."""
    for index, entry in enumerate(entries):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise ValueError(f"{where}: entry {index} of labels is not [path, {LABEL_SIZE} numbers]")
    names = [entry[0] for entry in entries]
    if len(set(names)) < len(names):
        twice, count = Counter(names).most_common(1)[0]
        raise ValueError(f"{where} has {count} labels for {shown(twice)}; which one is meant cannot be told")
    return names


def _checked_numbers(entries: list[Any], where: str) -> np.ndarray:
    """float64 [L, 25]. Numbers are looked at all together; only where some are bad, which one is asked."""
    rows = [entry[1] for entry in entries]
    if all(isinstance(row, list) and len(row) == LABEL_SIZE for row in rows):
        kinds = set(map(type, itertools.chain.from_iterable(rows)))
        if kinds <= {int, float}:
            try:
                labels = np.array(rows, dtype=np.float64).reshape(len(rows), LABEL_SIZE)
            except OverflowError:
                labels = np.full((1, 1), np.inf)
            if (np.abs(labels) <= _FLOAT32_MAX).all():
                return labels
    name, fault = next((name, fault) for name, row in entries if (fault := _label_fault(row)))
    raise ValueError(f"{where}: the label of {shown(name)} must have {LABEL_SIZE} numbers (c2w, K), got {fault}")


def _label_fault(row: Any) -> str:
    numbers = row if isinstance(row, list) else [row]
    if any(type(number) not in (int, float) for number in numbers):
        return "values that are not finite numbers"
    # Comparing works for integers of any length, and is false for NaN.
    if not all(-_FLOAT32_MAX <= number <= _FLOAT32_MAX for number in numbers):
        return "values that are not finite numbers within float32"
    return "" if isinstance(row, list) and len(row) == LABEL_SIZE else f"{len(numbers)} values"


def _checked_recipe(recipe: Any, where: str) -> dict[str, Any]:
    """How the set was made; it must be something that can be written again."""
    if recipe is None:
        return {}
    if not isinstance(recipe, dict):
        raise ValueError(f"{where}: recipe must be an object, got {type(recipe).__name__}")
    try:
        json.dumps(recipe, allow_nan=False)
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: recipe has numbers that are not finite, or is nested too deeply") from None
    return recipe


Placement = Callable[[str], str]


def _rows_by_name(names: Sequence[str]) -> dict[str, int]:
    """Row of every name; one that stands there twice, spelt in two ways, could mean either and is left out."""
    found = {name: row for row, name in enumerate(names)}
    if len(found) < len(names):
        counts = Counter(names)
        found = {name: row for name, row in found.items() if counts[name] == 1}
    return found


def _best_placement(table: LabelTable, images: Sequence[str], there: set[str]) -> tuple[Placement, list[str]]:
    """The way from a label's name to an image's that fits most of them: as written, or by a folder more or less."""
    if there.issuperset(table.names):
        return str, []
    stems = set(map(_stem, images))
    best: tuple[int, Placement, list[str]] = (-1, str, [])
    for add, drop in _placements(table, images):

        def place(name: str, add: str = add, drop: str = drop) -> str:
            return add + (plain_name(name) or "").removeprefix(drop)

        fitting = sum(image in there or _stem(image) in stems for image in map(place, table.names))
        if fitting > best[0]:
            best = fitting, place, ["adding or taking a folder"] if add != table.folder or drop else []
        if fitting == len(table.names):
            break
    return best[1], best[2]


def _placements(table: LabelTable, images: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Folders to put before the names of labels, and to take from them, the likely ones first."""
    yield table.folder, ""
    if table.folder:
        yield "", ""
    above = _common_folder(images)
    if above and above != table.folder:
        yield above, ""
    named = _common_folder([plain_name(name) or "" for name in table.names])
    if named:
        yield table.folder, named


def _common_folder(names: Sequence[str]) -> str:
    """The first folder of all names, with its slash; "" where they have none in common."""
    first = {name.partition("/")[0] if "/" in name else "" for name in names}
    return f"{first.pop()}/" if len(first) == 1 and "" not in first else ""


def _by_stem(images: Iterable[str], labels: Iterable[str]) -> dict[str, str]:
    """Image -> label of the same stem, where either has one partner only."""
    of_images, of_labels = _grouped(images), _grouped(labels)
    pairs = [(found[0], of_labels.get(stem, [])) for stem, found in of_images.items() if len(found) == 1]
    return {image: names[0] for image, names in pairs if len(names) == 1}


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_stem(name), []).append(name)
    return found


def _stem(name: str) -> str:
    """A name without suffix and capitals; macOS stores accents as letters of their own."""
    return unicodedata.normalize("NFC", os.path.splitext(name)[0]).casefold()
