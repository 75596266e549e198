"""What tests of fused operations share: the native library, or a skip that says why there is none."""

from __future__ import annotations

import pytest

from eg3d.ops import extension


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations run natively on the CPU, or the test skips."""
    monkeypatch.setenv("EG3D_OPS", "native")
    loaded, fault = extension._library("cpu", extension.architecture())
    if loaded is None:
        pytest.skip(fault)
