"""Ensembles: the mean of members or a bound below it, as a bundle that names them; and the command."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from command_line import Run
from safetensors.torch import load_file, save_file

from eg3d.checkpoints.ship import ShipConfig, ship, shipped_files
from eg3d.checkpoints.store import load_generator
from eg3d.file_hash import sha256_of
from eg3d.finetuning.loop import reward_inputs
from eg3d.finetuning.rewards import reward_from, score_seeds
from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import SampleConfig
from reward_model_training import ensemble, evaluate, score
from reward_model_training.bundle import load_reward, save_reward
from reward_model_training.card import EnsembleCard, RewardCard, read_card
from reward_model_training.data.transforms import SurfaceLogisticConfig
from reward_model_training.ensemble import EnsembleConfig, EnsembleReward, assemble, lower_bound
from reward_model_training.models import ModelConfig, build_model
from reward_model_training.models.backbones.sigma_unet3d import SigmaUNetConfig
from reward_model_training.models.heads import ScoreHeadsConfig

ROOT = Path(__file__).resolve().parents[2]
SLAB = SigmaField(resolution=12, grid="exact")
SAMPLE = SampleConfig(psi=0.7, conditioning="published")


def save_member(folder: Path, seed: int, **changes) -> Path:
    """A reward with weights of a seed; every member may have sizes and a transform of its own."""
    torch.manual_seed(seed)
    heads = ScoreHeadsConfig([4, 4], 4 + seed % 2, [3, 3])
    model = ModelConfig(SigmaUNetConfig(f_maps=[2, 4], num_groups=2, final_size_out=8), heads)
    made = {"generator": {"name": "toy"}, "training": {"seed": seed, "lr": 0.1, "anchors": {"psi": 0.25, "seed": seed}}}
    card = RewardCard(**{"model": model, "representation": SLAB, "sample": SAMPLE, "provenance": made} | changes)
    return save_reward(folder, build_model(model), card)


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    kinds = ({}, {"transform": SurfaceLogisticConfig()}, {})
    return [save_member(tmp_path / f"seed={seed}", seed, **kind) for seed, kind in enumerate(kinds)]


def assembled(members: list[Path], out: Path, bound: float = 0.0) -> EnsembleReward:
    found = load_reward(assemble(EnsembleConfig([str(path) for path in members], str(out), bound)))
    assert isinstance(found, EnsembleReward)
    return found


@pytest.fixture
def slabs() -> torch.Tensor:
    return 200 * torch.rand(5, *SLAB.shape(), generator=torch.Generator().manual_seed(0)) - 50


@pytest.mark.parametrize("bound", [0.0, 1.5])
def test_the_reward_is_the_bound_below_the_mean_of_the_members(members, slabs, tmp_path, bound) -> None:
    reward = assembled(members, tmp_path / "all", bound)
    each = torch.stack([load_reward(path)(slabs) for path in members])
    torch.testing.assert_close(reward.scores(slabs), each)
    torch.testing.assert_close(reward(slabs), each.mean(0) - bound * each.std(0), rtol=1e-4, atol=1e-5)
    assert (reward(slabs) <= reward.scores(slabs).mean(0) + 1e-6).all()
    assert (reward.representation, reward.sample) == (SLAB, SAMPLE)
    assert not any(p.requires_grad for p in reward.parameters()) and not reward.train().training


def test_it_is_differentiable_in_the_slab_also_where_the_members_agree(members, slabs, tmp_path) -> None:
    reward = assembled(members, tmp_path / "all", 1.0)
    x = slabs.requires_grad_()
    (grad,) = torch.autograd.grad(reward(x)[1], x)
    assert grad[1].abs().sum() > 0 and grad[0].abs().sum() == 0
    same = torch.ones(3, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(lower_bound(same, 1.0).sum(), same)
    assert torch.isfinite(grad).all()


def test_the_bundle_names_its_members_by_hash_and_no_path(members, tmp_path) -> None:
    card = assembled(members, tmp_path / "all", 0.5).card
    assert isinstance(card, EnsembleCard) and card.bound == 0.5
    for path, member in zip(members, card.members, strict=True):
        assert member.name == path.name
        assert member.weights_sha256 == sha256_of(path / "reward.safetensors")
        assert member.card_sha256 == sha256_of(path / "reward.yaml")
    assert card.members[1].card.transform == SurfaceLogisticConfig()
    assert card.provenance == {"generator": {"name": "toy"}, "training": {"lr": 0.1, "anchors": {"psi": 0.25}}}
    assert str(tmp_path) not in (tmp_path / "all" / "reward.yaml").read_text()
    assert read_card(tmp_path / "all" / "reward.yaml")[0] == card


def test_fine_tuning_ships_and_scores_take_it_as_any_bundle(members, toy_networks, tmp_path) -> None:
    folder = assemble(EnsembleConfig([str(path) for path in members], str(tmp_path / "all"), 1.0))
    config = {"_target_": "reward_model_training.bundle.load_reward", "path": str(folder)}
    reward = reward_from(config, device="cpu")
    assert isinstance(reward, EnsembleReward)
    (files,) = reward_inputs(config).values()
    assert (
        [path.name for path in files]
        == ["reward.safetensors", "reward.yaml"]
        == [path.name for path in shipped_files("all", folder).values()]
    )
    shipped = ship(ShipConfig(name="all", source=str(folder), manifest=str(tmp_path / "shipped" / "manifest.json")))
    assert [member["name"] for member in shipped["config"]["members"]] == [
        member.name for member in reward.card.members
    ]
    assert shipped["config"]["bound"] == 1.0 and load_reward(tmp_path / "shipped" / "all").card == reward.card
    assert torch.isfinite(score_seeds(load_generator(toy_networks), reward, [1, 2], SAMPLE)).all()


def test_the_heads_of_an_ensemble_are_those_of_its_members(members, slabs, tmp_path) -> None:
    reward = assembled(members, tmp_path / "all", 1.0)
    f = reward.features(slabs)
    torch.testing.assert_close(reward.model.scalar(f), reward(slabs))
    own = [load_reward(path) for path in members]
    bt = torch.stack([one.model.bt(one.features(slabs)) for one in own]).mean(0)
    torch.testing.assert_close(reward.model.bt(f), bt)
    pairs = torch.stack([one.model.pairs(*one.features(slabs[:4]).split(2)).softmax(-1) for one in own]).mean(0)
    torch.testing.assert_close(reward.model.pairs(f[:2], f[2:4]).softmax(-1), pairs)


def test_members_that_do_not_fit_are_refused(members, tmp_path) -> None:
    other = save_member(tmp_path / "other", 7, representation=dataclasses.replace(SLAB, resolution=14))
    late = save_member(tmp_path / "late", 8, sample=SampleConfig(psi=1.0, conditioning="published"))
    whole = assemble(EnsembleConfig([str(path) for path in members], str(tmp_path / "all")))
    for given, words in (
        ([members[0], other], "members: other has another representation than seed=0"),
        ([members[0], late], "members: late has another sample than seed=0"),
        ([members[0], members[0]], "has the weights of a member before it"),
        ([whole, members[0]], "is an ensemble itself"),
        ([members[0], tmp_path / "none"], "no reward bundle at"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
            assemble(EnsembleConfig([str(path) for path in given], str(tmp_path / "out")))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(bound="1"), "bound must be a finite number"),
        (lambda d: d.update(bound=-1.0), "bound: must be 0 or more"),
        (lambda d: d.update(members=3), "members must be a list"),
        (lambda d: d.update(members=[]), "expected 2 to 64, got 0"),
        (lambda d: d["members"].pop(), "expected 2 to 64|belongs to none of 2 members"),
        (lambda d: d["members"][1].pop("transform"), "missing keys: transform"),
        (lambda d: d["members"][1].update(name=3), "must be texts"),
        (lambda d: d["members"][1]["model"]["heads"].update(trunk_out=9), "member seed=1"),
        (lambda d: d["members"][1]["transform"].update(name="log"), "name: 'log' is not one of"),
        (lambda d: d["members"][1].update(_target_="os.system"), "_target_"),
        (lambda d: d.pop("sample"), "missing keys: sample"),
        (lambda d: d.update(model={}), "unknown keys: model"),
    ],
)
def test_a_wrong_card_is_one_line(members, tmp_path, change, text) -> None:
    card = assemble(EnsembleConfig([str(path) for path in members], str(tmp_path / "all"))) / "reward.yaml"
    data = yaml.safe_load(card.read_text())
    change(data)
    card.write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=text) as error:
        load_reward(card.parent)
    assert "\n" not in str(error.value) and "reward." in str(error.value)


def test_tensors_of_nobody_are_refused(members, tmp_path) -> None:
    folder = assemble(EnsembleConfig([str(path) for path in members], str(tmp_path / "all")))
    weights = folder / "reward.safetensors"
    save_file(load_file(weights) | {"7.bias": torch.zeros(1)}, weights)
    card = yaml.safe_load((folder / "reward.yaml").read_text())
    (folder / "reward.yaml").write_text(yaml.safe_dump(card | {"weights_sha256": sha256_of(weights)}))
    with pytest.raises(ValueError, match=r"7\.bias belongs to none of 3 members"):
        load_reward(folder)


def test_the_commands(members, run: Run, rankings, toy_networks, tmp_path) -> None:
    """Assemble, evaluate into the card, score."""
    listed = ",".join(f"'{path}'" for path in members)
    done = run(ensemble, f"members=[{listed}]", "out=all", "bound=1")
    assert done.code == 0, done.err
    assert "mean minus 1 standard deviations of 3 members" in done.out
    data = [f"data.rankings={rankings}", f"data.generator={toy_networks}", "data.storage=memory"]
    anchors = ["data.anchors.num_train=4", "data.anchors.num_val=2", "data.anchors.num_test=2"]
    done = run(evaluate, "reward=all", "device=cpu", *data, *anchors)
    assert done.code == 0 and "scalar" in done.out, done.err
    done = run(score, "reward=all", f"generator={toy_networks}", "num_seeds=2", "device=cpu")
    assert done.code == 0, done.err
    for words, said in (("members=[one]", "members: give two bundles or more, got 1"), ("bound=-1", "bound: must be")):
        done = run(ensemble, words)
        assert done.code == 2 and said in done.the_error()
    done = run(ensemble, "members=[a/b,c/d]")
    assert done.code == 1 and "no reward bundle at a/b" in done.the_error()


def test_help() -> None:
    line = [sys.executable, "-m", "reward_model_training.ensemble", "--help"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "python -m reward_model_training.ensemble" in done.stdout and "bound: 0.0" in done.stdout
