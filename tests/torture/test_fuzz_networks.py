"""No damage to a network file gives more than one clear line, or runs anything."""

from __future__ import annotations

import pytest
from fuzz_networks import fuzz


def test_damaged_network_files_are_refused_in_one_line() -> None:
    report = fuzz(100, seed=0)
    assert report.unexpected == []
    assert report.cases == 100
    assert 40 < report.refused < 99  # damage that is found, and damage that does no harm


@pytest.mark.slow
def test_many_damaged_network_files_are_refused_in_one_line() -> None:
    report = fuzz(3000, seed=1)
    assert report.unexpected == [], report.line()
