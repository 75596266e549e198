"""No damage to a file gives more than one clear line, or runs anything, whichever of our readers gets it."""

from __future__ import annotations

import pytest
from plan import FUZZERS

FEW = {"data sets": 150}  # cases in the ordinary suite; of the other readers 100
REFUSED = {"data sets": (51, 139), "networks: safetensors and pkl": (41, 98)}  # of those; some damage does no harm


@pytest.mark.parametrize("reader", FUZZERS)
def test_damaged_files_are_refused_in_one_line(reader: str) -> None:
    cases = FEW.get(reader, 100)
    report = FUZZERS[reader](cases, 0)
    assert report.unexpected == []
    assert report.cases == cases
    least, most = REFUSED.get(reader, (31, cases))
    assert least <= report.refused <= most


@pytest.mark.slow
@pytest.mark.parametrize("reader", FUZZERS)
def test_many_damaged_files_are_refused_in_one_line(reader: str) -> None:
    report = FUZZERS[reader](3000, 1)
    assert report.unexpected == [], report.line()
