"""EG3D's training flags: what each sets, which are refused, and the command as a user runs it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from omegaconf import OmegaConf

from eg3d import train_flags
from eg3d.cameras import CameraConfig
from eg3d.hydra_command import ConfigError, compose_config
from eg3d.networks.augment import pipe_config
from eg3d.training.config import TrainConfig
from eg3d.training.flags import config_from_flags, latest_folder, next_folder, run_name, words

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = {"outdir": "runs", "cfg": "ffhq", "data": "FFHQ_512.zip", "gpus": 8, "batch": 32, "gamma": 1.0}
TOY_WORDS = [
    "grid=[1,1]", "generator.z_dim=8", "generator.w_dim=8", "generator.plane_resolution=8",
    "generator.plane_channels=2",
    "generator.sr_channels=[4,4]", "generator.rendering.depth_resolution=4", "threads=1",
    "generator.rendering.depth_resolution_importance=2", "discriminator.mapping_layers=1", "loss.density_reg_points=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def toy_128(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four 128-pixel images with cameras."""
    folder, rng = tmp_path_factory.mktemp("images128"), np.random.RandomState(0)
    labels = [[f"{k}.png", CameraConfig().label(0.1 * k)[0].tolist()] for k in range(4)]
    for name, _ in labels:
        PIL.Image.fromarray(rng.randint(0, 256, (8, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)).save(folder / name)
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    return folder


def _flags(**changes: Any) -> dict[str, Any]:
    """Every flag by name, as click hands them over."""
    values = {option.name: option.default for option in train_flags.main.params if option.name not in REQUIRED}
    values |= {name: None for name, value in values.items() if "UNSET" in str(value)}
    return values | REQUIRED | changes


def _config(resolution: int = 512, **changes: Any) -> TrainConfig:
    return config_from_flags(_flags(**changes), resolution=resolution, out="out", given=set(changes))


def _at(cfg: Any, path: str) -> Any:
    for name in path.split("."):
        cfg = getattr(cfg, name)
    return cfg


def test_the_published_faces() -> None:
    cfg = _config(gen_pose_cond=True)
    wanted = TrainConfig(out="out", data="FFHQ_512.zip", workers=3, cudnn_benchmark=True)
    wanted.generator.precision = wanted.discriminator.precision = "fp16"
    assert cfg == wanted


EFFECTS = [
    ({"cfg": "afhq"}, {"generator.camera.pivot": (0.0, 0.0, -0.06), "generator.superresolution": "8XDC"}),
    ({"cfg": "shapenet", "resolution": 128}, {
        "generator.rendering.ray_end": 2.6, "generator.rendering.white_back": True, "generator.camera.radius": 1.7,
        "generator.superresolution": "2X", "discriminator.img_resolution": 128, "generator.condition_on_camera": False,
        "loss.swap_final": None}),
    ({"resolution": 256}, {"generator.superresolution": "4X", "generator.img_resolution": 256}),
    ({"sr_module": "training.superresolution.SuperresolutionHybrid8X"}, {"generator.superresolution": "8X"}),
    ({"gamma": 5.0}, {"loss.r1_gamma": 5.0}),
    ({"mirror": True, "max_images": 7}, {"mirror": True, "max_images": 7}),
    ({"aug": "ada", "target": 0.5}, {
        "augmentation.mode": "ada", "augmentation.target": 0.5, "augmentation.kimg": 500.0,
        "augmentation.pipe": pipe_config("bgc")}),
    ({"aug": "fixed", "p": 0.3, "augpipe": "blit"}, {
        "augmentation.mode": "fixed", "augmentation.p": 0.3, "augmentation.pipe": pipe_config("blit")}),
    ({"resume": "twin", "aug": "ada", "gen_pose_cond": True}, {
        "start": "twin", "start_config": "own", "loss.blur_init_sigma": 0.0, "loss.swap_fade_kimg": 0.0,
        "augmentation.kimg": 100.0, "ema_rampup": None}),
    ({"resume": "twin", "resume_blur": True}, {"loss.blur_init_sigma": 10.0, "ema_rampup": 0.05}),
    ({"freezed": 10}, {"discriminator.freeze_layers": 10}),
    ({"batch_gpu": 4}, {"micro_batch": 4}),
    ({"cbase": 16384, "cmax": 256}, {
        "generator.channel_base": 16384, "discriminator.channel_base": 16384, "generator.channel_max": 256,
        "discriminator.channel_max": 256}),
    ({"glr": 0.001, "dlr": 0.003}, {"optim.generator_lr": 0.001, "optim.discriminator_lr": 0.003}),
    ({"map_depth": 8}, {"generator.mapping_layers": 8, "discriminator.mapping_layers": 8}),
    ({"mbstd_group": 2}, {"discriminator.mbstd_group_size": 2}),
    ({"kimg": 100, "tick": 2, "snap": 5}, {"total_kimg": 100.0, "tick_kimg": 2.0, "snapshot_ticks": 5}),
    ({"seed": 3, "workers": 1, "nobench": True}, {"seed": 3, "workers": 1, "cudnn_benchmark": False}),
    ({"fp32": True}, {"generator.precision": "fp32", "discriminator.precision": "fp32"}),
    ({"precision": "bf16"}, {"generator.precision": "bf16", "discriminator.precision": "bf16"}),
    ({"sr_num_fp16_res": 0, "g_num_fp16_res": 2, "d_num_fp16_res": 1}, {
        "generator.sr_num_fp16_res": 0, "generator.num_fp16_res": 2, "discriminator.num_fp16_res": 1}),
    ({"neural_rendering_resolution_initial": 32, "neural_rendering_resolution_final": 128,
      "neural_rendering_resolution_fade_kimg": 500.0}, {
        "generator.neural_rendering_resolution": 32, "neural_resolution_final": 128,
        "neural_resolution_fade_kimg": 500.0}),
    ({"batch": 16, "gpus": 4, "blur_fade_kimg": 100.0}, {"loss.blur_fade_kimg": 50.0}),
    ({"gen_pose_cond": True, "c_scale": 0.5, "gpc_reg_prob": 0.8, "gpc_reg_fade_kimg": 10.0}, {
        "generator.condition_on_camera": True, "generator.c_scale": 0.5, "loss.swap_final": 0.8,
        "loss.swap_fade_kimg": 10.0}),
    ({"disc_c_noise": 0.1, "sr_noise_mode": "random"}, {
        "discriminator.disc_c_noise": 0.1, "generator.superresolution_noise_mode": "random"}),
    ({"style_mixing_prob": 0.9, "decoder_lr_mul": 2.0}, {
        "loss.style_mixing_prob": 0.9, "generator.decoder_lr_mul": 2.0}),
    ({"density_reg": 0.1, "density_reg_every": 2, "density_reg_p_dist": 0.01, "reg_type": "monotonic-fixed"}, {
        "loss.density_reg": 0.1, "loss.density_reg_interval": 2, "loss.density_reg_std": 0.01,
        "loss.density_reg_type": "monotonic-fixed"}),
    ({"device": "cpu"}, {"device": "cpu"}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "wanted"), EFFECTS, ids=lambda value: next(iter(value)))
def test_what_a_flag_sets(changes: dict[str, Any], wanted: dict[str, Any]) -> None:
    cfg = _config(**changes)
    assert {path: _at(cfg, path) for path in wanted} == wanted
    again = compose_config("train", TrainConfig, words(cfg))
    assert words(again) == words(cfg)


def test_every_flag_is_covered() -> None:
    """A flag sets something above, is refused below, or belongs to the run folder and the way the command starts."""
    elsewhere = {"outdir", "data", "desc", "further", "dry_run", "help"}
    covered = {name for changes, _ in EFFECTS for name in changes} | {
        name for changes, _ in REFUSED for name in changes
    }
    assert {option.name for option in train_flags.main.params} - covered - elsewhere == set()


REFUSED = [
    ({"cond": False}, "cond: EG3D renders from camera labels"),
    ({"c_noise": 0.1}, "c_noise: it is read nowhere"),
    ({"sr_first_cutoff": 2.0}, "sr_first_cutoff: it belongs"),
    ({"sr_first_stopband": 2.0}, "sr_first_stopband: it belongs"),
    ({"reg_type": "total-variation"}, "reg_type: total-variation has no loss in EG3D either; give l1"),
    ({"p": 0.3}, "p: has no effect without aug=fixed"),
    ({"target": 0.3, "aug": "fixed"}, "target: has no effect without aug=ada"),
    ({"augpipe": "bg"}, "augpipe: has no effect with aug=noaug"),
    ({"gpc_reg_prob": 0.8}, "gpc_reg_prob: has no effect without gen_pose_cond=True"),
    ({"resume_blur": True}, "resume_blur: has no effect without resume"),
    ({"neural_rendering_resolution_fade_kimg": 1.0}, "has no effect without neural_rendering_resolution_final"),
    ({"resume": "https://example.org/a.pkl"}, "resume: nothing is fetched here"),
    ({"metrics": "fid50k_full"}, "metrics: snapshots are measured|metrics: measured apart"),
    ({"sr_module": "9X"}, "sr-module: '9X' is not one of"),
    ({"sr_module": "2X"}, "sr-module: 2X makes 128-pixel images, the data set has 512"),
    ({"resolution": 64}, "data: .*64-pixel images"),
    ({"batch": 60}, "batch: 60 does not divide over 8 processes"),
    ({"batch_gpu": 2}, "batch-gpu: 2 is below mbstd-group 4"),
    (
        {"batch": 48, "batch_gpu": 6},
        "batch-gpu: 6 images cut the discriminator's minibatch-std groups of 4; .* mbstd-group",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        _config(**changes)
    assert "\n" not in str(error.value)


def test_words_survive_odd_names() -> None:
    cfg = TrainConfig(data="a b/it's, 100%=x.zip", out="2024", start="null", total_kimg=1e-05)
    again = compose_config("train", TrainConfig, words(cfg))
    assert (again.data, again.out, again.start, again.total_kimg) == (cfg.data, cfg.out, cfg.start, cfg.total_kimg)
    assert words(TrainConfig()) == []


def test_run_folders_are_numbered_and_found_again(tmp_path: Path) -> None:
    name = run_name(_flags(desc="try"))
    assert name == "ffhq-FFHQ_512-gpus8-batch32-gamma1-try"
    assert next_folder(tmp_path / "none", name) == tmp_path / "none" / f"00000-{name}"
    for number, kind in ((0, name), (3, name), (4, "other"), (7, name)):
        (tmp_path / f"{number:05d}-{kind}").mkdir()
    assert next_folder(tmp_path, name).name == f"00008-{name}"
    with pytest.raises(FileNotFoundError, match="resume: "):
        latest_folder(tmp_path, name)
    for number, kind in ((0, name), (3, name), (4, "other")):
        (tmp_path / f"{number:05d}-{kind}" / "state.safetensors").touch()
    assert latest_folder(tmp_path, name).name == f"00003-{name}"


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = 0
    try:
        train_flags.main(arguments, prog_name="python -m eg3d.train")
    except SystemExit as stop:
        code = int(stop.code or 0)
    logging.getLogger().handlers[:] = []
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _toy_arguments(outdir: Path, data: Path, *more: str) -> list[str]:
    return [
        f"--outdir={outdir}", "--cfg=ffhq", f"--data={data}", "--gpus=1", "--batch=2", "--gamma=1", "--device=cpu",
        "--cbase=128", "--cmax=4", "--mbstd-group=2", "--neural_rendering_resolution_initial=8", *more, *TOY_WORDS,
    ]  # fmt: skip


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(["--help"], capsys)
    assert (code, err) == (0, "")
    for option in train_flags.main.params:
        assert option.opts[0] in out or option.name == "further"


def test_train_hands_flags_over(tmp_path: Path, toy_128: Path) -> None:
    """As a user of EG3D types it; the dry run prints a config that composes and leaves nothing behind."""
    arguments = _toy_arguments(tmp_path / "runs", toy_128, "--dry-run", "--gen_pose_cond=True", "--aug=ada")
    run = subprocess.run(
        [sys.executable, "-m", "eg3d.train", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert (run.returncode, run.stderr) == (0, "")
    printed = OmegaConf.create(run.stdout)
    assert (printed.augmentation.mode, printed.generator.z_dim) == ("ada", 8)
    assert printed.out.endswith("00000-ffhq-images1280-gpus1-batch2-gamma1")
    assert run.stdout.splitlines()[-1].startswith("# -m eg3d.train ")
    assert not (tmp_path / "runs").exists()


def test_a_run_goes_on_with_resume_latest(tmp_path: Path, toy_128: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(_toy_arguments(tmp_path, toy_128, "--kimg=0.002"), capsys)
    assert (code, err) == (0, "")
    (folder,) = tmp_path.iterdir()
    assert out.splitlines()[-1] == f"snapshot: {folder}/network-snapshot-000000002.safetensors"
    code, out, err = _run(_toy_arguments(tmp_path, toy_128, "--kimg=0.004", "--resume=latest"), capsys)
    assert (code, err) == (0, "")
    assert "resuming at 2 images" in out
    lines = (folder / "stats.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["num_images"] for line in lines] == [0, 2, 4]
    start = str(folder / "network-snapshot-000000004.safetensors")
    code, out, err = _run(_toy_arguments(tmp_path, toy_128, "--kimg=0", f"--resume={start}", "--map-depth=3"), capsys)
    assert (code, err) == (0, "")
    assert "1 new" not in out.split("D: ")[1].splitlines()[0]  # the discriminator fits whole
    assert "2 new (backbone.mapping.fc2" in out
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--cfg=ffhq"], 2, "Missing option '--outdir'"),
        (["--cfg=faces"], 2, "Invalid value for '--cfg'"),
        (["--gama=1"], 2, "No such option '--gama'"),
        (["--outdir=o", "--cfg=ffhq", "--data=nowhere.zip", "--gpus=1", "--batch=4", "--gamma=1"], 1, "does not exist"),
    ],
)
def test_a_bad_call_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    found, out, err = _run(arguments, capsys)
    assert (found, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert message in err


def test_refusals_of_the_command(toy_128: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _run(_toy_arguments(tmp_path, toy_128, "--reg_type=l1-alt", "--cond=False"), capsys)
    assert code == 2
    assert err.startswith("error: cond: ")
    assert "; reg_type: l1-alt has no loss" in err
    code, _, err = _run(_toy_arguments(tmp_path, toy_128, "--resume=latest"), capsys)
    assert (code, err.startswith("error: resume: ")) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_flags_and_words_are_told_apart() -> None:
    for words_of_hydra in (["experiment=twin"], ["--cfg", "job"], ["--help"], ["-m", "seed=1,2"], []):
        assert not train_flags.has_flags(words_of_hydra)
    for flags in (["--outdir=x"], ["--cfg", "ffhq", "--batch_gpu", "4"], ["--dry_run"]):
        assert train_flags.has_flags(flags)
