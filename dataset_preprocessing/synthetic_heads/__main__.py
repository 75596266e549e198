"""python -m dataset_preprocessing.synthetic_heads: makes the data set of synthetic heads."""

from __future__ import annotations

from dataset_preprocessing.synthetic_heads.run import HeadsConfig, make_heads, save_contact_sheet
from eg3d.hydra_command import hydra_command
from eg3d.progress import progress_bar


@hydra_command(config_name="heads", schema=HeadsConfig)
def main(cfg: HeadsConfig) -> None:
    """Render posed portraits of parametric heads and write them with their camera labels (zip or folder)."""
    if cfg.num_images:
        with progress_bar("heads", cfg.num_images) as advance:
            path = make_heads(cfg, advance=advance)
        print(f"data set: {path}")
    if cfg.contact_sheet:
        save_contact_sheet(cfg.contact_sheet, cfg)
        print(f"contact sheet: {cfg.contact_sheet}")


if __name__ == "__main__":
    main()
