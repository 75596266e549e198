"""No damage to a data set gives more than one clear line."""

from __future__ import annotations

import pytest
from fuzz_datasets import fuzz


def test_damaged_data_sets_are_refused_in_one_line() -> None:
    report = fuzz(150, seed=0)
    assert report.unexpected == []
    assert report.cases == 150
    assert 50 < report.refused < 140  # damage that is found, and damage that does no harm


@pytest.mark.slow
def test_many_damaged_data_sets_are_refused_in_one_line() -> None:
    report = fuzz(3000, seed=1)
    assert report.unexpected == [], report.line()
