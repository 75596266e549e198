"""Put trained weights among those that the project ships: copy them and write their entry in the manifest.

python -m eg3d.checkpoints.ship name=twin source=runs/twin/generator/network-snapshot-000005120.safetensors

A source is a network file of `save_networks`, the folder of a reward bundle (reward.safetensors and reward.yaml), or a
head model (.npz), whose card says what made it.
Everything shipped stays below LIMIT_BYTES together.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eg3d.checkpoints.manifest import MANIFEST, read_manifest
from eg3d.checkpoints.store import only_networks, read_metadata
from eg3d.data_files import DataFiles
from eg3d.data_labels import read_table
from eg3d.file_hash import sha256_of
from eg3d.head_model_file import MODEL_SUFFIX, read_head_arrays
from eg3d.hydra_command import hydra_command
from eg3d.plain_data import read_plain_table
from eg3d.run_folder import code_version
from eg3d.safe_write import atomic_path, write_json

LIMIT_BYTES = 30_000_000
SHIPPED_KINDS = ("networks", "reward", "head_model")  # the manifest also lists files of others, which are not here
LICENCE = "Apache-2.0"
TOLD_NOT_SET = ("maker", "focal", "code_names")  # what a recipe says besides settings of its command
REWARD_FILES = ("reward.safetensors", "reward.yaml")  # weights first
OWN_SOURCE = "trained by this project on portraits of its head model"


@dataclass
class ShipConfig:
    """What to ship, under which name, and what the manifest says about it."""

    name: str = ""  # of the manifest entry and the file
    source: str = ""  # network file, folder of a reward bundle, or head model
    networks: list[str] = field(default_factory=list)  # of a network file, to leave out the others; empty = all
    manifest: str = ""  # weights go beside it; empty = checkpoints/manifest.json of the repository
    command: str = ""  # that made it; empty = as the run folder of the source says
    data: str = ""  # data set behind it, for its SHA-256 and recipe; optional
    licence: str = LICENCE
    origin: str = OWN_SOURCE
    warm_start: str = ""  # a note; empty = as the run folder of the source says
    notes: list[str] = field(default_factory=list)

    def validate(self) -> list[str]:
        """All faults, one line each."""
        faults = [f"{name}: give {name}=..." for name in ("name", "source") if not getattr(self, name)]
        if self.name and not self.name.replace("_", "").replace("-", "").isalnum():
            faults.append(f"name: {self.name!r} may hold letters, digits, _ and - only")
        return faults


def ship(cfg: ShipConfig) -> dict[str, Any]:
    """Copy the weights beside the manifest and write their entry; returns the entry.

    What is not given of the same weights, when they are there already under this name, stays as their entry has it.
    Raises FileNotFoundError without a source, ValueError if it is neither kind, or if all shipped files together would
    exceed LIMIT_BYTES; nothing is written then.
    """
    if cfg.networks:
        with tempfile.TemporaryDirectory() as folder:
            return _ship(cfg, only_networks(cfg.source, Path(folder) / "some.safetensors", cfg.networks))
    return _ship(cfg, Path(cfg.source))


def _ship(cfg: ShipConfig, source: Path) -> dict[str, Any]:
    """Ship a source that holds what is wanted of the one in `cfg`, and nothing else."""
    manifest = Path(cfg.manifest or MANIFEST)
    entries = read_manifest(manifest) if manifest.is_file() else {}
    files = shipped_files(cfg.name, source)
    facts = _facts(source)
    made = Path(cfg.source) if Path(cfg.source).is_dir() else Path(cfg.source).parent
    size = sum(path.stat().st_size for path in files.values())
    others = (item for name, item in entries.items() if name != cfg.name and item.get("kind") in SHIPPED_KINDS)
    total = size + sum(int(item.get("bytes", 0)) for item in others)
    if total > LIMIT_BYTES:
        raise ValueError(
            f"{cfg.name}: {size / 1e6:.1f} MB would make {total / 1e6:.1f} MB of shipped weights; at most "
            f"{LIMIT_BYTES / 1e6:.0f} MB fit, so ship fewer networks or smaller ones"
        )
    for target, path in files.items():
        with atomic_path(manifest.parent / target) as temporary:
            shutil.copyfile(path, temporary)
    weights = next(iter(files))
    sha256 = sha256_of(manifest.parent / weights)
    earlier = entries.get(cfg.name, {})
    same = earlier if earlier.get("sha256") == sha256 else {}
    entry = {
        "file": weights,
        "sha256": sha256,
        "bytes": size,
        "licence": cfg.licence,
        "source": cfg.origin,
        **facts,
        "command": cfg.command or facts.get("command") or run_command(made) or same.get("command", ""),
        "data": data_facts(cfg.data) if cfg.data else same.get("data", {}),
        "warm_start": cfg.warm_start or warm_start_note(made) or same.get("warm_start", ""),
        "code_version": same.get("code_version", code_version()),
        "notes": list(cfg.notes) or same.get("notes", []),
    }
    write_json(manifest, {"checkpoints": {**entries, cfg.name: entry}})
    return entry


def shipped_files(name: str, source: Path) -> dict[str, Path]:
    """Where each file goes, relative to the manifest; the weights come first."""
    if not source.exists():
        raise FileNotFoundError(
            f"source: {source} does not exist; give a network file, the folder of a reward bundle or a head model"
        )
    if source.is_file():
        return {f"{name}{MODEL_SUFFIX if source.suffix == MODEL_SUFFIX else '.safetensors'}": source}
    missing = [file for file in REWARD_FILES if not (source / file).is_file()]
    if missing:
        raise ValueError(f"source: the folder {source} is no reward bundle; it lacks {', '.join(missing)}")
    return {f"{name}/{file}": source / file for file in REWARD_FILES}


def data_facts(path: str | Path) -> dict[str, Any]:
    """SHA-256, number of images and recipe of a data set (a zip, or a folder whose dataset.json is hashed)."""
    path = Path(path)
    hashed = path / "dataset.json" if path.is_dir() else path
    if not hashed.is_file():
        raise FileNotFoundError(f"data: no data set at {path}")
    table = read_table(DataFiles(path, what="data: ", hint="give a data set"))
    if table is None:
        raise ValueError(f"data: {path} has no dataset.json; give a data set")
    recipe = {key: value for key, value in table.recipe.items() if key != "head_seeds"}
    maker = recipe.get("maker", "")
    command = f"python -m {maker} out={path.name}" if maker else ""
    facts = {"file": path.name, "sha256": sha256_of(hashed), "images": len(table.names), "recipe": recipe}
    return facts | ({"command": command + _words(recipe)} if command else {})


def run_command(folder: Path) -> str:
    """The command of the run whose folder this is, or nothing."""
    path = folder / "run.json"
    return str(read_plain_table(path).get("command", "")) if path.is_file() else ""


def warm_start_note(folder: Path) -> str:
    """What the run's config says about phases before adversarial training, and what it started from."""
    path = folder / "config.yaml"
    if not path.is_file():
        return ""
    config = read_plain_table(path)
    phases = {key: value for key, value in (config.get("warm_start") or {}).items() if key.endswith("_kimg") and value}
    parts = [f"{key.removesuffix('_kimg')} for {value:g} thousand images" for key, value in phases.items()]
    if config.get("start"):
        parts.append(f"started from {Path(str(config['start'])).name}")
    return "; ".join(parts)


def _facts(source: Path) -> dict[str, Any]:
    """What a source of any kind says about itself."""
    if source.is_dir():
        return _reward_facts(source)
    return _head_model_facts(source) if source.suffix == MODEL_SUFFIX else _network_facts(source)


def _head_model_facts(path: Path) -> dict[str, Any]:
    arrays, card = read_head_arrays(path)
    recipe = {key: value for key, value in card["recipe"].items() if key not in ("maker", "out")}
    words = "".join(f" {key}={value}" for key, value in recipe.items())
    return {
        "kind": "head_model",
        "licence": card["licence"],
        "source": card["sources"],
        "num_vertices": len(arrays.mean),
        "num_components": arrays.num_components,
        "config": recipe,
        "held_out": card["held_out"],
        "made_with": f"anny {card['anny']}",
        "command": f"python -m {card['recipe']['maker']} out={path.name}{words}",
    }


def _network_facts(path: Path) -> dict[str, Any]:
    metadata = read_metadata(path)
    return {
        "kind": "networks",
        "networks": sorted(metadata["configs"]),
        "num_images": metadata["extra"].get("num_images"),
        "config": metadata["configs"],
    }


def _reward_facts(folder: Path) -> dict[str, Any]:
    card = read_plain_table(folder / "reward.yaml")
    if card.get("weights_sha256") != sha256_of(folder / "reward.safetensors"):
        raise ValueError(f"source: {folder}/reward.yaml does not describe the weights beside it; make the bundle again")
    own = ("members", "bound") if "members" in card else ("model", "transform")  # an ensemble, or one reward
    keys = ("representation", "sample", *own)
    missing = [key for key in keys if key not in card]
    if missing:  # of an earlier format, say
        raise ValueError(f"source: {folder}/reward.yaml lacks {', '.join(missing)}; make the bundle again")
    made_of = card.get("provenance", {})
    provenance = {key: made_of.get(key, {}) for key in ("generator", "rankings")}
    config = {key: card[key] for key in keys}
    if "members" in config:
        config["members"] = [{key: each[key] for key in ("name", "model", "transform")} for each in card["members"]]
    return {"kind": "reward", "config": config, "trained_on": provenance}


def _words(recipe: Mapping[str, Any]) -> str:
    """All settings of a recipe as words of its maker's command, so that the command makes that data set."""
    return "".join(f" {name}={value}" for name, value in recipe.items() if name not in TOLD_NOT_SET)


@hydra_command(config_name="ship", schema=ShipConfig)
def main(cfg: ShipConfig) -> None:
    """Copy trained weights into checkpoints/ and write their entry in its manifest."""
    entry_written = ship(cfg)
    size = entry_written["bytes"] / 1e6
    print(f"{cfg.name}: {entry_written['file']}, {size:.2f} MB, SHA-256 {entry_written['sha256'][:16]}...")
    print(f"manifest: {cfg.manifest or 'checkpoints/manifest.json'}")


if __name__ == "__main__":
    main()
