"""What generators are like before any fine-tuning: python -m paper_result_analyses.generators networks=[A,B] data=SET.

Tables of the folder `out`, each with a JSON that says where it comes from:

- `truncation.csv`: a row a network and strength, shapes against true heads and by every judge (measure/truncation.py),
  and the seeds behind it in `truncation_seeds.csv`.
- `image_sets.csv`: a row a network and one for the data set, kernel distance and sharpness (measure/image_sets.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from eg3d.checkpoints.manifest import resolve
from eg3d.checkpoints.store import load_generator
from eg3d.data import ImageDataset
from eg3d.hydra_command import hydra_command, log_to_console
from eg3d.progress import progress_bar
from eg3d.run_folder import as_plain, choose_device
from paper_result_analyses.measure import image_sets, truncation, truth
from paper_result_analyses.measure.image_sets import ImageSetConfig
from paper_result_analyses.measure.protocol import Table
from paper_result_analyses.measure.truncation import TruncationConfig
from reward_model_training.stress import load
from reward_model_training.tables import write_table

if TYPE_CHECKING:
    from eg3d.finetuning.rewards import Reward
    from eg3d.generators.protocol import Generator

log = logging.getLogger(__name__)


@dataclass
class GeneratorsConfig:
    """Which networks, beside which images, by which reward."""

    networks: list[str] = field(default_factory=list)  # files, or names in checkpoints/manifest.json
    data: str = ""  # data set; empty = shapes alone, without true heads
    reward: Any = ""  # bundle folder, name in the manifest, or reward._target_=... as for fine-tuning; empty = none
    out: str = "runs/generators"  # folder of the tables
    device: str = "auto"
    truncation: TruncationConfig = field(default_factory=TruncationConfig)  # psis=[]: images alone
    images: ImageSetConfig = field(default_factory=lambda: ImageSetConfig(first_seed=600000))

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = [] if self.networks else ["networks: give networks=[PATH,PATH]"]
        if len(set(self.networks)) < len(self.networks):
            faults.append(f"networks: give each once, got {', '.join(self.networks)}")
        if not self.data and not self.truncation.psis:
            faults.append("data, truncation.psis: both are empty, so that nothing is left to measure")
        return faults


def labels(networks: Sequence[str]) -> list[str]:
    """What networks are called in tables: the file's name, with as many of its folders as tell them all apart."""
    parts = [Path(name).with_suffix("").parts for name in networks]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        found = ["/".join(each[-depth:]) for each in parts]
        if len(set(found)) == len(found):
            return found
    return list(networks)


def measure_generators(cfg: GeneratorsConfig) -> dict[str, pd.DataFrame]:
    """Write the tables of `cfg` into its folder; returns them by name, those to look at first."""
    device = choose_device(cfg.device)
    inputs = {name: resolve(path) for name, path in zip(labels(cfg.networks), cfg.networks, strict=True)}
    networks = {name: load_generator(path, device=device) for name, path in inputs.items()}
    dataset = ImageDataset(cfg.data) if cfg.data else None
    data = {image_sets.DATA: Path(cfg.data)} if cfg.data else {}
    found: dict[str, pd.DataFrame] = {}

    def write(measured: Table, made: pd.DataFrame, files: Mapping[str, Path], settings: Any) -> None:
        path, plain = Path(cfg.out) / f"{measured.name}.csv", as_plain(settings)
        write_table(path, made, columns=measured.columns, inputs={**inputs, **data, **files}, settings=plain)
        found[measured.name] = made

    if cfg.truncation.psis:
        reward, files = load(cfg.reward, device=str(device)) if cfg.reward else (None, {})
        seeds = _shapes(networks, dataset, reward, cfg.truncation)
        write(truncation.SUMMARY, truncation.summary(seeds), files, cfg.truncation)
        write(truncation.SEEDS, seeds, files, cfg.truncation)
    if dataset is not None:
        with progress_bar("sets rendered", len(networks)) as advance:
            made = image_sets.image_sets(networks, dataset, cfg.images, advance=advance)
        write(image_sets.TABLE, made, {}, cfg.images)
    return found


def _shapes(
    networks: Mapping[str, Generator], dataset: ImageDataset | None, reward: Reward | None, cfg: TruncationConfig
) -> pd.DataFrame:
    num_codes = truth.num_codes(dataset) if dataset is not None else None
    if num_codes is None:
        what = f"{dataset.path} holds no portraits of the head model" if dataset else "there is no data set"
        log.warning("%s: shapes are judged, but not compared with true heads", what)
    with progress_bar("shapes judged (simulated)", len(networks) * len(cfg.psis) * cfg.num_seeds) as advance:
        return pd.concat(
            [
                truncation.shapes_by_psi(name, G, cfg, num_codes=num_codes, reward=reward, advance=advance)
                for name, G in networks.items()
            ],
            ignore_index=True,
        )


@hydra_command(config_name="generators", schema=GeneratorsConfig)
def main(cfg: GeneratorsConfig) -> None:
    """Say what generators are like: shapes by truncation strength and judge, images beside those of a data set."""
    log_to_console()
    found = measure_generators(cfg)
    if truncation.SUMMARY.name in found:
        print(truncation.for_people(found[truncation.SUMMARY.name]).to_string(index=False))
    if image_sets.TABLE.name in found:
        print(found[image_sets.TABLE.name].round(3).to_string(index=False))
    print("\n".join(f"table: {Path(cfg.out) / name}.csv" for name in found))


if __name__ == "__main__":
    main()
