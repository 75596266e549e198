"""python -m dataset_preprocessing.synthetic_heads: makes the data set of synthetic heads."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dataset_preprocessing.synthetic_heads.run import HeadsConfig, make_heads, save_contact_sheet
from eg3d.entry import entry


@entry(config_name="heads", schema=HeadsConfig)
def main(cfg: HeadsConfig) -> None:
    """Render posed portraits of parametric heads and write them with their camera labels (zip or folder)."""
    columns = (TextColumn("heads"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    if cfg.num_images:
        with Progress(*columns) as progress:
            task = progress.add_task("heads", total=cfg.num_images)
            path = make_heads(cfg, advance=lambda images: progress.advance(task, images))
        print(f"data set: {path}")
    if cfg.contact_sheet:
        save_contact_sheet(cfg.contact_sheet, cfg)
        print(f"contact sheet: {cfg.contact_sheet}")


if __name__ == "__main__":
    main()
