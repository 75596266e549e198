"""Generators before fine-tuning: shapes by truncation strength, images beside a data set, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from command_line import Run

from dataset_preprocessing.human_heads.codes import CODE_NAMES, NUM_CODES
from eg3d.data import ImageDataset
from eg3d.file_hash import sha256_of
from eg3d.representations.sigma_field import SigmaField
from paper_result_analyses import generators
from paper_result_analyses.generators import labels
from paper_result_analyses.measure import image_change, image_sets, truncation, truth
from paper_result_analyses.measure.tables import Tables
from paper_result_analyses.measure.truncation import TruncationConfig
from tests.analyses.tiny_run import save_tiny_networks, save_tiny_reward, tiny_generator

CFG = TruncationConfig(
    num_seeds=2, psis=[1.0, 0.0], yaws=[0.0], resolution=16, grid_resolution=16, slab=SigmaField(16, grid="exact")
)


def test_without_variation_every_seed_is_one_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """At psi 0 all seeds have the mean shape and are compared with the average head; at psi 1 they are not."""
    codes = np.random.default_rng(0).normal(size=(2, NUM_CODES)).astype(np.float32)
    monkeypatch.setattr(truth, "true_codes", lambda G, seeds, num_codes: codes)
    table = truncation.shapes_by_psi("start", tiny_generator(), CFG, num_codes=NUM_CODES)
    assert list(table.columns) == list(truncation.SEED_COLUMNS) and table["reward"].isna().all()
    for psi, part in table.groupby("psi"):
        numbers = part[["normal_deg", "depth", "iou", "seen", "likeness", "rules"]]
        assert np.isfinite(numbers.to_numpy()).all()
        assert (numbers.nunique() == 1).all() == (psi == 0)


def seeds_table(**scores: list[float]) -> pd.DataFrame:
    """Likeness by seed, one argument a strength: psi100=[...]; rules say the opposite, and there is no reward."""
    rows = []
    for name, values in scores.items():
        for seed, value in enumerate(values):
            rows.append(("start", int(name[3:]) / 100, seed, 10 * value, value / 100, 0.5, 1.0, value, -value, np.nan))
    return pd.DataFrame(rows, columns=list(truncation.SEED_COLUMNS))


def test_strengths_are_compared_seed_by_seed_with_the_largest() -> None:
    table = seeds_table(psi70=[2, 3, 4, 1], psi100=[1, 2, 3, 1], psi25=[0, 0, 9, 9])
    rows = truncation.summary(table).set_index("psi")
    assert list(rows.index) == [0.7, 1.0, 0.25] and list(rows["n"]) == [4, 4, 4]
    assert list(rows["likeness"]) == [2.5, 1.75, 4.5] and list(rows["normal_deg"]) == [25, 15, 45]
    assert rows.loc[1.0, "likeness_error"] == pytest.approx(np.std([1, 2, 3, 1], ddof=1) / 2)
    assert rows["likeness_preferred"].fillna(-1).to_dict() == {0.7: 0.75, 1.0: -1, 0.25: 0.5}, "a tie is no preference"
    assert rows["rules_preferred"].fillna(-1).to_dict() == {0.7: 0.0, 1.0: -1, 0.25: 0.5}
    assert rows["reward"].isna().all() and rows["reward_preferred"].isna().all()
    assert (rows["likeness_preferred_low"] < rows["likeness_preferred"])[[0.7, 0.25]].all()
    shuffled = truncation.summary(table.sample(frac=1, random_state=0)).set_index("psi").loc[rows.index]
    pd.testing.assert_frame_equal(shuffled, rows)


def test_what_the_report_says() -> None:
    tables = {"truncation": truncation.summary(seeds_table(psi100=[1, 2, 3], psi70=[2, 3, 4]))}
    found = truncation.findings(tables)  # type: ignore[arg-type]
    assert [(f.what.split(" whose shape ")[1].split()[0], f.is_met) for f in found] == [
        ("likeness", True),
        ("rules", False),
    ]
    shown = truncation.for_people(tables["truncation"])
    assert list(shown.columns)[-2:] == ["rules", "rules prefers"] and "reward" not in shown
    assert list(shown["likeness prefers"]) == ["", "100% (44% to 100%)"] and shown["likeness"][0] == "2.00 +- 0.58"
    (section,) = truncation.sections(tables)  # type: ignore[arg-type]
    assert section.parts[0][1].equals(shown)


def test_latents_too_short_for_heads_are_judged_alone(caplog: pytest.LogCaptureFixture) -> None:
    table = truncation.shapes_by_psi("small", tiny_generator(), CFG, num_codes=NUM_CODES)
    assert table["normal_deg"].isna().all() and table["likeness"].notna().all()
    assert caplog.messages == [
        "small: latents of 8 numbers hold no 64 head parameters; its shapes are not compared with true heads"
    ]


def test_sets_are_those_of_the_measure(toy_images: Path) -> None:
    """One implementation: the data set's row is the floor, and a network's row is the same in both places."""
    networks, dataset = {"start": tiny_generator(), "tuned": tiny_generator(1)}, ImageDataset(toy_images)
    cfg = image_change.ImageChangeConfig(num_seeds=4)
    alone = image_sets.image_sets(networks, dataset, cfg)
    assert list(alone["arm"]) == [image_sets.DATA, "start", "tuned"] and alone.notna().all(axis=None)
    pd.testing.assert_frame_equal(alone, image_change.image_change(networks, dataset, cfg)[1])


@pytest.mark.parametrize(
    ("given", "called"),
    [
        (["twin"], ["twin"]),
        (["a/b.safetensors"], ["b"]),
        (["twin", "a/b.safetensors", "c/b.safetensors"], ["twin", "a/b", "c/b"]),
        (["/x/a/b.pkl", "/y/a/b.pkl"], ["x/a/b", "y/a/b"]),
        ([], []),
    ],
)
def test_names_tell_networks_apart(given: list[str], called: list[str]) -> None:
    assert labels(given) == called


WORDS = ("device=cpu", "truncation.num_seeds=2", "truncation.psis=[1,0.5]", "truncation.slab.resolution=16")


def test_the_command_writes_tables_and_where_they_come_from(run: Run, toy_images: Path, tmp_path: Path) -> None:
    first, second = (save_tiny_networks(tmp_path / name / "tiny.safetensors", seed) for seed, name in enumerate("ab"))
    networks, reward = f"networks=[{first},{second}]", save_tiny_reward(tmp_path / "reward")
    done = run(generators, networks, f"data={toy_images}", f"reward={reward}", "out=t", "images.num_seeds=3", *WORDS)
    assert done.code == 0, done.err
    tables = Tables(tmp_path / "t", (truncation.SUMMARY, truncation.SEEDS, image_sets.TABLE))
    assert not tables.missing() and len(tables["truncation_seeds"]) == 8
    rows = tables["truncation"]
    assert list(zip(rows["arm"], rows["psi"], strict=True)) == [(a, p) for a in ("a/tiny", "b/tiny") for p in (1, 0.5)]
    assert rows[["likeness", "rules", "reward"]].notna().all(axis=None) and rows["depth"].isna().all()
    assert list(tables["image_sets"]["arm"]) == ["data set", "a/tiny", "b/tiny"]
    about = json.loads((tmp_path / "t" / "truncation.json").read_text())
    assert about["inputs"]["b/tiny"]["sha256"] == sha256_of(second) and "data set" in about["inputs"]
    assert any("reward" in name for name in about["inputs"]) and about["settings"]["psis"] == [1, 0.5]
    assert about["command"] and about["code_version"] and set(about["columns"]) == set(truncation.COLUMNS)
    assert "holds no portraits of the head model" in done.out and "likeness prefers" in done.out


def test_shapes_alone_and_images_alone(run: Run, toy_networks: Path, toy_images: Path, tmp_path: Path) -> None:
    done = run(generators, f"networks=[{toy_networks}]", "out=shapes", *WORDS)
    assert done.code == 0 and {p.name for p in (tmp_path / "shapes").glob("*.csv")} == {
        "truncation.csv",
        "truncation_seeds.csv",
    }
    words = (f"data={toy_images}", "out=images", "truncation.psis=[]", "images.num_seeds=3", "device=cpu")
    done = run(generators, f"networks=[{toy_networks}]", *words)
    assert done.code == 0 and [p.name for p in (tmp_path / "images").glob("*.csv")] == ["image_sets.csv"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "networks: give networks=[PATH,PATH]"),
        (("networks=[twin,twin]",), 2, "networks: give each once"),
        (("networks=[twin]", "truncation.psis=[]"), 2, "nothing is left to measure"),
        (("networks=[twin]", "truncation.psis=[1,1]"), 2, "truncation.psis: give every strength once"),
        (("networks=[twins]",), 1, "'twins' is neither a file nor in"),
    ],
)
def test_a_bad_call_is_one_line(run: Run, words: tuple[str, ...], code: int, said: str) -> None:
    done = run(generators, *words)
    assert done.code == code and said in done.the_error()


def test_help(run: Run) -> None:
    done = run(generators, "--help")
    assert done.code == 0 and "first_seed: 600000" in done.out


def test_portraits_say_their_heads() -> None:
    assert truth.num_codes(SimpleNamespace(recipe={"code_names": list(CODE_NAMES)})) == NUM_CODES  # type: ignore[arg-type]
    assert truth.num_codes(SimpleNamespace(recipe={"code_names": ["brow"]})) is None  # type: ignore[arg-type]
