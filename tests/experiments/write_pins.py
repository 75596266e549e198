"""Writes the pinned values again: python tests/experiments/write_pins.py. Read the difference before committing it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from eg3d.finetuning.config import FinetuneConfig
from eg3d.hydra_command import compose_config

PIN = Path(__file__).with_name("ffhq_sfield.yaml")


def main() -> None:
    cfg = compose_config("finetune", FinetuneConfig, ["experiment=ffhq_sfield"])
    PIN.write_text(OmegaConf.to_yaml(OmegaConf.structured(cfg)), encoding="utf-8")
    print(f"pin: {PIN}")


if __name__ == "__main__":
    main()
