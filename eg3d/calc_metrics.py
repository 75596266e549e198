"""python -m eg3d.calc_metrics: FID, KID, inception score, precision and recall, path length of a network."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eg3d.click_command import Cutoff, OneLineCommand, switch
from eg3d.safe_write import naming_disk_faults

if TYPE_CHECKING:
    import torch

    from eg3d.progress import Advance


@click.command(cls=OneLineCommand)
@click.option("--network", required=True, help="Network file, or a name in checkpoints/manifest.json.")
@click.option("--metrics", default="fid50k_full", help="Names with commas between; see above.")
@click.option("--data", help="Data set, zip or folder.  [default: that of the network's run folder]")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of latents, cameras, noise, jitter and subsets.")
@switch("--mirror", help="Add mirrored images and cameras, except for metrics named _full.")
@click.option("--gpus", type=click.IntRange(min=1), default=1, help="Devices, one process each; the CPU counts as any.")
@click.option("--device", default="auto", help="auto, cpu, cuda or mps.")
@click.option("--batch", type=click.IntRange(min=1), default=4, help="Images generated together; decides their noise.")
@click.option(
    "--detector",
    default="auto",
    help="auto (as published: vgg16 for pr and ppl), inception, vgg16, random_convolutions, module:function.",
)
@click.option("--net", default="G_ema", help="Which generator of the file.")
@click.option("--trunc", "psi", type=float, default=1.0, help="Truncation psi; published figures use 1.")
@click.option(
    "--trunc-cutoff", type=Cutoff(), default="all", help="Style codes that truncation changes: a number, or all."
)
@click.option("--noise-mode", type=click.Choice(["random", "const", "none"]), default="random", help="Of the backbone.")
@switch("--jitter", default=True, help="Random places of the samples along rays, as published.")
@click.option("--cache-dir", default="runs/metrics_cache", help="Where measured features are kept.")
@click.option("--no-cache", is_flag=True, help="Measure everything anew and keep nothing.")
@click.option("--out", help="Folder for metric-NAME.jsonl.  [default: the network's run folder, if it is in one]")
@switch("--verbose", default=True, help="Progress bars.")
def main(**options: Any) -> None:
    """How good a network's images are, as one JSON line a metric on stdout.

    Metrics: fid50k_full, kid50k_full, pr50k3_full, is50k, ppl2_wend; fid50k, kid50k, pr50k3 use at most 50 000 reals.
    Any other count is a short form for testing: fid1k, kid100_full, is200, pr24, ppl8_wend.

    Weights of the published detectors are not shipped and never fetched; a missing file says where to get it. With
    --detector random_convolutions every figure says that a stand-in made it.
    """
    from eg3d.metrics.measurements import GeneratedImages
    from eg3d.metrics.registry import Evaluation, parse_metric

    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    metrics = [parse_metric(name.strip()) for name in options["metrics"].split(",") if name.strip()]
    if not metrics:
        raise click.UsageError("metrics: none given; give --metrics fid50k_full, for example")
    folder = run_folder(options["network"])
    images = GeneratedImages(
        network=options["network"],
        data=options["data"] or data_of_run(folder, options["network"]),
        seed=options["seed"],
        net=options["net"],
        psi=options["psi"],
        truncation_cutoff=options["trunc_cutoff"],
        noise_mode=options["noise_mode"],
        is_jittered=options["jitter"],
        is_mirrored=options["mirror"],
        batch=options["batch"],
    )
    evaluation = Evaluation(
        images,
        detector=options["detector"],
        devices=choose_devices(options["device"], options["gpus"]),
        cache=None if options["no_cache"] else options["cache_dir"],
    )
    out = options["out"] or folder
    for metric in metrics:
        line = json.dumps(measure(metric, evaluation, is_shown=options["verbose"]), allow_nan=False)
        click.echo(line)
        if out:
            append_line(Path(out) / f"metric-{metric.name}.jsonl", line)


def measure(metric: Any, evaluation: Any, *, is_shown: bool) -> dict[str, Any]:
    """The result of one metric, with what it was made of, as one JSON object."""
    from eg3d.metrics.registry import evaluate
    from eg3d.progress import progress_bar

    def bar(title: str, samples: int) -> AbstractContextManager[Advance]:
        return progress_bar(f"{metric.name}: {title}", samples, is_shown=is_shown)

    start = time.time()
    result = evaluate(metric, evaluation, bar=bar)
    return result | provenance(evaluation, seconds=time.time() - start)


def provenance(evaluation: Any, *, seconds: float) -> dict[str, Any]:
    """The rest of a result line, with the published names where there are any."""
    from eg3d.checkpoints.manifest import resolve
    from eg3d.file_hash import sha256_of
    from eg3d.progress import duration
    from eg3d.run_folder import code_version

    images = evaluation.images
    network = resolve(images.network)
    recipe = {name: getattr(images, name) for name in _RECIPE}
    return {
        "seed": images.seed,
        "snapshot_pkl": network.name,
        "network_sha256": sha256_of(network),
        "data": Path(images.data).name,
        **recipe,
        "num_gpus": len(evaluation.devices),
        "device": evaluation.devices[0].type,
        "code_version": code_version(),
        "total_time": seconds,
        "total_time_str": duration(seconds),
        "timestamp": time.time(),
    }


_RECIPE = ("net", "psi", "truncation_cutoff", "noise_mode", "is_jittered", "is_mirrored", "batch")


def choose_devices(name: str, count: int) -> list[torch.device]:
    """`count` devices: GPUs, or as many processes on one device of another kind. Raises ValueError for too few GPUs."""
    import torch

    from eg3d.run_folder import choose_device

    device = choose_device(name)
    if device.type != "cuda" or count == 1:
        return [device] * count
    there = torch.cuda.device_count()
    if count > there:
        raise ValueError(f"gpus: {count} were asked for, this machine has {there}; give --gpus {there}")
    return [torch.device("cuda", index) for index in range(count)]


def run_folder(network: str) -> Path | None:
    """The run that a network file lies in: its folder, if that holds the record of a run."""
    folder = Path(network).parent
    return folder if Path(network).is_file() and (folder / "run.json").is_file() else None


def data_of_run(folder: Path | None, network: str) -> str:
    """The data set that the run of a network was trained on. Raises ValueError when there is no telling, or when
    another one has come to its place."""
    from eg3d.metrics.measurements import data_sha256
    from eg3d.plain_data import read_plain_table

    if folder is not None and (folder / "config.yaml").is_file():
        data = read_plain_table(folder / "config.yaml").get("data")
        inputs = read_plain_table(folder / "run.json").get("inputs")
        trained_on = inputs.get("data") if isinstance(inputs, dict) else None
        if isinstance(data, str):
            wanted = trained_on.get("sha256") if isinstance(trained_on, dict) else None
            if wanted and Path(data).exists() and data_sha256(data) != wanted:
                raise ValueError(f"data: {data} is not the set that the run in {folder} has; give --data SET.zip")
            return data
    raise ValueError(f"data: nothing beside {network} says what it was trained on; give --data SET.zip")


def append_line(path: Path, line: str) -> None:
    """Add one line to a file, in one write that is on disk afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_disk_faults(path), open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
