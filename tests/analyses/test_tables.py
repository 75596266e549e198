"""Tables on disk: what is written beside them, and what happens when they are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from paper_result_analyses.measure.protocol import Table
from paper_result_analyses.measure.tables import Tables, read_sidecar, read_table
from reward_model_training.tables import write_table

COLUMNS = {"arm": "network", "seed": "seed", "value": "no unit", "is_good": "flag"}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    table = pd.DataFrame({"arm": ["a", "b"], "seed": [1, 2], "value": [0.5, np.nan], "is_good": [True, False]})
    source = tmp_path / "net.bin"
    source.write_bytes(b"weights")
    return write_table(tmp_path / "t.csv", table, columns=COLUMNS, inputs={"net": source}, settings={"seed": 3})


def test_table_and_sidecar(written):
    table = read_table(written, columns=COLUMNS, text=("arm",))
    assert list(table["seed"]) == [1, 2] and table["is_good"].tolist() == [True, False]
    sidecar = json.loads(written.with_suffix(".json").read_text())
    assert sidecar["inputs"]["net"]["file"] == "net.bin" and len(sidecar["inputs"]["net"]["sha256"]) == 64
    assert sidecar["columns"] == COLUMNS and sidecar["command"] and sidecar["code_version"]
    assert sidecar["rows"] == 2 and sidecar["settings"] == {"seed": 3}
    with pytest.raises(ValueError, match=r"u\.csv: expected columns"):
        write_table(written.with_name("u.csv"), table, columns={"seed": ""}, inputs={})
    with pytest.raises(FileNotFoundError, match="no table"):
        read_table(written.with_name("u.csv"), columns=COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "arm,seed,value,is_good\na,1,0.5,True\n",
        "arm,seed\na,1\n",
        "\x00\x01",
        "arm,seed,value,is_good\na,x,1,True\n",
    ],
)
def test_a_table_that_is_not_the_written_one_is_named(written, text):
    written.write_text(text)
    with pytest.raises(ValueError, match=r"t\.csv: not the table that was written there.*delete it") as caught:
        read_table(written, columns=COLUMNS, text=("arm",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not a table"),
        (b"a,b\n1,2,3\n1,2,3,4\n", "not a table"),
        (b"\xff\xfe\x00", "not a table"),
        (b"arm,seed\na,1\n", "lacks the columns value, is_good"),
        (b"arm,seed,value,is_good\na,1,0.5x,True\n", "columns value hold something else than numbers"),
        (b"arm,seed,value,is_good\na,1,0.5,Tr\n", "columns is_good hold"),
        (b"arm,seed,value,is_good\na,,,\nb,1,2,Tru", "columns is_good hold"),
    ],
)
def test_without_its_description_a_damaged_table_is_still_named(written, content, fault):
    written.with_suffix(".json").unlink()
    written.write_bytes(content)
    with pytest.raises(ValueError, match=rf"t\.csv: {fault}") as caught:
        read_table(written, columns=COLUMNS, text=("arm",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"inputs": 3}', '{"inputs": {"a": {"file": 1}}}', "[" * 100_000]
)
def test_a_damaged_description_is_named(written, text):
    written.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=r"t\.json: not .*delete it together with its table"):
        read_sidecar(written)


def test_tables_of_a_folder_are_read_once_and_by_their_declaration(written, monkeypatch):
    declared = [Table("t", COLUMNS), Table("u", {"x": ""}, text=())]
    tables = Tables(written.parent, declared)
    assert "t" in tables and "u" not in tables and tables.missing() == ["u"]
    assert tables["t"] is tables["t"]
    with pytest.raises(FileNotFoundError, match="no table"):
        tables["u"]
    as_numbers = Tables(written.parent, [Table("t", COLUMNS, text=())])
    with pytest.raises(ValueError, match="columns arm hold something else"):
        as_numbers["t"]
