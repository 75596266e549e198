"""Ranking tables, pairs, splits and anchors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reward_model_training.preferences.anchors import AnchorConfig, anchor_split, draw_anchor
from reward_model_training.preferences.rankings import Ranking, read_rankings, write_rankings
from reward_model_training.preferences.splits import inseparable, shuffle_split, split_by_batch

HEADER = "batch,annotator,psi,rank1,rank2,rank3,rank4,rank5,rank6\n"


def test_a_table_is_read_back_as_written(tmp_path: Path) -> None:
    rankings = [
        Ranking(0, (5, 3), "simulated", 1.0),
        Ranking(1, (9, 1, 2, 8, 4, 7), "simulated", 0.7),
        Ranking(1, (1, 9, 2), "ann, the second", 1.0),
    ]
    write_rankings(tmp_path / "r.csv", rankings)
    assert read_rankings(tmp_path / "r.csv") == rankings
    assert (tmp_path / "r.csv").read_text().startswith(HEADER)


def test_the_released_format_is_read(tmp_path: Path) -> None:
    (tmp_path / "released.csv").write_text(",rank1,rank2\n0,35539,23763\n1,36390,34268\n")
    rankings = read_rankings(tmp_path / "released.csv")
    assert [r.seeds for r in rankings] == [(35539, 23763), (36390, 34268)]
    assert {r.psi for r in rankings} == {1.0} and [r.batch for r in rankings] == [0, 1]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("0,a,1.0,5,3,,,,\n0,a,1.0,6,7,,,,\n", "occurs twice"),
        ("0,a,1.0,5,,,,,\n", "line 2.*2 to 6 seeds"),
        ("0,a,1.0,5,5,,,,\n", "ranked twice"),
        ("0,a,1.0,5,,3,,,\n", "blank rank"),
        ("0,a,1.0,5,x,,,,\n", "line 2.*'x'"),
        ("0,a,1.0,5,3\n", "expected 9 cells, found 5"),
        ("0,a,nan,5,3,,,,\n", "psi"),
        ("0,,1.0,5,3,,,,\n", "no name"),
        ("0,a,1.0,5,-3,,,,\n", "seeds must be 0 to"),
        ("0,a,1.0,5,4294967296,,,,\n", "seeds must be 0 to"),
        ("0,a,1.0,5,3.5,,,,\n", "line 2.*whole number, found '3.5'"),
        ("0,a,1.0,5,1e3,,,,\n", "whole number"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, body: str, word: str) -> None:
    (tmp_path / "r.csv").write_text(HEADER + body)
    with pytest.raises(ValueError, match=word) as error:
        read_rankings(tmp_path / "r.csv")
    assert "r.csv" in str(error.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"reward_model_training\.rank"):
        read_rankings(tmp_path / "none.csv")
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected the header"):
        read_rankings(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        read_rankings(tmp_path / "r.csv")


def test_a_table_that_went_through_pandas_or_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """Blank cells make a column of floats there, and a file may end in empty lines."""
    rankings = [Ranking(0, (1, 2, 3), "ann"), Ranking(1, (4, 5), "ann")]
    write_rankings(tmp_path / "a.csv", rankings)
    text = (tmp_path / "a.csv").read_text()
    table = pd.read_csv(tmp_path / "a.csv")
    table.to_csv(tmp_path / "pandas.csv", index=False)
    table.to_csv(tmp_path / "indexed.csv")
    assert "3.0" in (tmp_path / "pandas.csv").read_text()
    (tmp_path / "blank.csv").write_text(text + "\n" + "," * 8 + "\n")
    (tmp_path / "windows.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    for name in ("pandas", "indexed", "blank", "windows"):
        assert read_rankings(tmp_path / f"{name}.csv") == rankings, name
    (tmp_path / "released.csv").write_text(",rank1,rank2\n0,35539,23763\n1,36390,34268\n")
    pd.read_csv(tmp_path / "released.csv").to_csv(tmp_path / "again.csv", index=False)
    assert read_rankings(tmp_path / "again.csv") == read_rankings(tmp_path / "released.csv")


def test_rankings_of_one_batch_or_with_a_common_shape_are_inseparable() -> None:
    def ranking(batch: int, *seeds: int, annotator: str = "ann", psi: float = 1.0) -> Ranking:
        return Ranking(batch, seeds, annotator, psi)

    rankings = [
        ranking(0, 1, 2),
        ranking(1, 3, 4),
        ranking(2, 5, 6),
        ranking(0, 2, 1, annotator="bob"),  # the same batch
        ranking(7, 6, 8, annotator="bob"),  # a shape of batch 2
        ranking(8, 8, 9, annotator="eve"),  # which leads on to this one
        ranking(9, 3, 10, psi=0.7),  # seed 3 is another shape there
    ]
    assert inseparable(rankings) == [[0, 3], [1], [2, 4, 5], [6]]
    assert inseparable([ranking(n, 2 * n, 2 * n + 1) for n in range(50)]) == [[n] for n in range(50)]


@pytest.mark.parametrize("n", [4, 10, 11, 101, 4346])
def test_splits_partition_the_batches(n: int) -> None:
    split = split_by_batch(n)
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(n))
    assert all(len(part) for part in split.values())


def test_the_published_split_sizes_and_its_first_rows() -> None:
    split = split_by_batch(4346)
    assert [len(split[name]) for name in ("train", "val", "test")] == [3042, 652, 652]
    order = np.random.RandomState(42).permutation(4346)
    assert split["train"].tolist() == order[1304:].tolist()


@pytest.mark.parametrize("n", [4, 10, 57, 4346])
def test_split_equals_scikit_learn(n: int) -> None:
    selection = pytest.importorskip("sklearn.model_selection", reason="scikit-learn is not installed")
    train, rest = selection.train_test_split(np.arange(n), test_size=0.3, train_size=0.7, random_state=42)
    val, test = selection.train_test_split(rest, test_size=0.5, train_size=0.5, random_state=42)
    split = split_by_batch(n)
    assert [split[name].tolist() for name in ("train", "val", "test")] == [train.tolist(), val.tolist(), test.tolist()]


def test_anchors_are_the_published_thousand() -> None:
    split = anchor_split(AnchorConfig())
    assert [len(split[name]) for name in ("train", "val", "test")] == [700, 150, 150]
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(100000, 101000))
    drawn = {draw_anchor(split["val"], np.random.RandomState(i)) for i in range(50)}
    assert drawn <= set(split["val"].tolist()) and len(drawn) > 10
    small = anchor_split(AnchorConfig(num_train=5, num_val=2, num_test=1))
    assert [len(part) for part in small.values()] == [5, 2, 1]


def test_bad_draws_get_one_line() -> None:
    with pytest.raises(ValueError, match="no anchor"):
        draw_anchor(np.array([]), np.random.RandomState(0))
    with pytest.raises(ValueError, match="cannot draw"):
        shuffle_split(np.arange(4), 3, 2)
    with pytest.raises(ValueError, match="at least 4"):
        split_by_batch(3)


MIXED = HEADER.strip() + "," + ",".join(f"psi{i}" for i in range(1, 7)) + "," + ",".join(
    f"generator{i}" for i in range(1, 7)
)  # fmt: skip
OTHER = "0123456789abcdef"


def test_a_mixed_table_is_read_back_and_a_plain_one_has_no_column_more(tmp_path: Path) -> None:
    plain = [Ranking(0, (5, 3), "simulated", 1.0), Ranking(1, (6, 7), "simulated", 1.0, psis=(1.0, 1.0))]
    write_rankings(tmp_path / "r.csv", plain)
    assert (tmp_path / "r.csv").read_text().splitlines()[0] == HEADER.strip()
    mixed = [
        Ranking(0, (5, 3, 4), "simulated", 1.0, (0.25, 1.3, 1.0), ("", OTHER, "")),
        Ranking(1, (9, 1), "simulated", 1.0),
        Ranking(2, (8, 2), "simulated", 1.0, (0.0, 1.0)),
    ]
    write_rankings(tmp_path / "m.csv", mixed)
    assert (tmp_path / "m.csv").read_text().splitlines()[0] == MIXED
    assert read_rankings(tmp_path / "m.csv") == mixed
    assert mixed[0].origins() == [(0.25, ""), (1.3, OTHER), (1.0, "")] and mixed[1].origins() == [(1.0, "")] * 2
    pd.read_csv(tmp_path / "m.csv").to_csv(tmp_path / "pandas.csv")
    assert read_rankings(tmp_path / "pandas.csv") == mixed


@pytest.mark.parametrize(
    ("cells", "word"),
    [
        ("0,a,1.0,5,3,,,,,2.5,,,,,,,,,,,", "psi must lie in 0 to 2, got 2.5"),
        ("0,a,1.0,5,3,,,,,x,,,,,,,,,,,", "line 2"),
        ("0,a,1.0,5,3,,,,,,,1.0,,,,,,,,,", "beyond the last rank"),
        ("0,a,1.0,5,3,,,,,,,,,,,twin,,,,,", "16 digits of a SHA-256 or blank, got 'twin'"),
        ("0,a,1.0,5,3,,,,", "expected 21 cells, found 9"),
    ],
)
def test_bad_cells_of_a_mixed_table_are_named(tmp_path: Path, cells: str, word: str) -> None:
    (tmp_path / "r.csv").write_text(f"{MIXED}\n{cells}\n")
    with pytest.raises(ValueError, match=word) as error:
        read_rankings(tmp_path / "r.csv")
    assert "r.csv" in str(error.value) and "\n" not in str(error.value)


def test_a_seed_of_two_strengths_or_generators_is_two_shapes() -> None:
    rankings = [
        Ranking(0, (1, 2), "ann", 1.0, (0.5, 1.0)),
        Ranking(1, (1, 3), "ann"),
        Ranking(2, (1, 4), "ann", 1.0, (), (OTHER, "")),
        Ranking(3, (5, 1), "ann", 0.5),  # the first shape of batch 0
    ]
    assert inseparable(rankings) == [[0, 3], [1], [2]]
