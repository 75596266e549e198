"""python -m eg3d.calc_metrics as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eg3d import calc_metrics
from eg3d.checkpoints import manifest
from eg3d.file_hash import sha256_of, sha256_of_file_or_folder
from eg3d.metrics import detectors

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "eg3d.calc_metrics", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


def test_help_lists_metrics_and_options(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    for word in ("fid50k_full", "ppl2_wend", "--network", "--data", "--seed", "--gpus", "--detector", "--cache-dir"):
        assert word in done.stdout


def test_a_good_call_prints_and_keeps_one_json_line_a_metric(tmp_path, toy_networks, toy_images):
    done = run(
        "--network", toy_networks, "--data", toy_images, "--metrics", "fid10_full,kid10", "--detector",
        "random_convolutions", "--seed", 2, "--out", tmp_path / "out", "--device", "cpu", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["metric"] for line in lines] == ["fid10_full", "kid10"]
    fid = lines[0]
    assert fid["results"]["fid10_full"] > 0 and fid["seed"] == 2 and (fid["num_real"], fid["num_fake"]) == (12, 10)
    assert fid["detector"]["is_stand_in"] and "stand-in" in fid["detector"]["name"]
    assert fid["network_sha256"] == sha256_of(toy_networks) and fid["snapshot_pkl"] == toy_networks.name
    assert {"total_time", "total_time_str", "num_gpus", "timestamp", "psi", "noise_mode"} <= set(fid)
    assert json.loads((tmp_path / "out" / "metric-fid10_full.jsonl").read_text()) == fid
    assert len(list((tmp_path / "runs" / "metrics_cache").glob("*.safetensors"))) == 2  # kid found what fid measured


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in this process."""
    try:
        calc_metrics.main.main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_the_data_set_of_a_run_is_known_by_its_contents(tmp_path, toy_images):
    (tmp_path / "config.yaml").write_text(f"data: {toy_images}")
    for record in ({}, {"inputs": {"data": {"name": "x", "sha256": sha256_of_file_or_folder(toy_images)}}}):
        (tmp_path / "run.json").write_text(json.dumps(record))
        assert calc_metrics.data_of_run(tmp_path, "n") == str(toy_images)
    (tmp_path / "run.json").write_text(json.dumps({"inputs": {"data": {"name": "x", "sha256": "0" * 64}}}))
    with pytest.raises(ValueError, match=r"is not the set that the run in .* has; give --data"):
        calc_metrics.data_of_run(tmp_path, "n")


def test_a_damaged_config_of_the_run_is_one_line_that_names_it(capsys, tmp_path, toy_networks):
    network = shutil.copy(toy_networks, tmp_path / "network.safetensors")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("data: [1")
    code, out, err = call(capsys, "--network", network, "--metrics", "fid8", "--no-cache")
    assert code == 1 and "config.yaml: not plain YAML data" in err and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--metrics", "fide"], 1, "metric 'fide' is unknown; known are fid50k_full"),
        (["--metrics", ","], 2, "metrics: none given"),
        (["--data", "nowhere.zip", "--detector", "random_convolutions"], 1, "data: nowhere.zip does not exist"),
        (["--network", "nowhere", "--detector", "random_convolutions"], 1, "'nowhere' is neither a file nor in"),
        (["--detector", "resnet"], 1, "detector 'resnet' is not one of inception"),
        (["--device", "gpu"], 1, "device: 'gpu' is not a device"),
        (["--gpus", "0"], 2, "--gpus"),
        (["--size", "3"], 2, "No such option"),
    ],
)
def test_bad_calls_get_one_line(capsys, tmp_path, toy_networks, toy_images, change, code, message):
    base = ["--network", toy_networks, "--data", toy_images, "--metrics", "fid8", "--no-cache"]
    found, out, err = call(capsys, *base, *change)
    assert found == code and message in err and err.startswith("error: ") and err.count("\n") == 1 and out == ""


def test_a_missing_detector_says_where_to_get_it_and_where_to_put_it(
    capsys, tmp_path, toy_networks, toy_images, monkeypatch
):
    (tmp_path / "checkpoints").mkdir()  # one without detectors, whatever the checkout has by now
    listing = shutil.copy(manifest.MANIFEST, tmp_path / "checkpoints")
    monkeypatch.setattr(detectors, "resolve", lambda name: manifest.resolve(name, manifest=listing))
    code, _, err = call(capsys, "--network", toy_networks, "--data", toy_images, "--metrics", "fid8", "--no-cache")
    assert code == 1 and "checkpoints/detectors/pt_inception-2015-12-05-6726825d.pth is missing" in err
    assert "https://github.com/mseitzer/pytorch-fid" in err and "--detector random_convolutions" in err


def test_a_run_folder_gives_the_data_and_takes_the_result(capsys, tmp_path, toy_networks, toy_images):
    shutil.copy(toy_networks, tmp_path / "network-snapshot-000001.safetensors")
    network, rest = (
        tmp_path / "network-snapshot-000001.safetensors",
        ("--metrics", "pr8", "--no-cache", "--verbose=false"),
    )
    arguments = ("--network", network, *rest, "--detector", "random_convolutions")
    code, _, err = call(capsys, *arguments)
    assert code == 1 and "give --data SET.zip" in err
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "config.yaml").write_text(f"data: {toy_images}\n")
    code, out, _ = call(capsys, *arguments, "--gpus", "1", "--mirror", "--trunc", "0.7", "--jitter=False")
    assert code == 0
    result = json.loads(out)
    assert json.loads((tmp_path / "metric-pr8.jsonl").read_text()) == result
    assert (result["num_real"], result["psi"], result["is_jittered"], result["is_mirrored"]) == (24, 0.7, False, True)
    assert not list(tmp_path.glob("runs"))
    call(capsys, *arguments)
    assert len((tmp_path / "metric-pr8.jsonl").read_text().splitlines()) == 2


def test_more_gpus_than_there_are_is_one_line(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(device) for device in calc_metrics.choose_devices("cuda", 2)] == ["cuda:0", "cuda:1"]
    with pytest.raises(ValueError, match="gpus: 3 were asked for, this machine has 2; give --gpus 2"):
        calc_metrics.choose_devices("cuda", 3)
    assert len(calc_metrics.choose_devices("cpu", 2)) == 2
