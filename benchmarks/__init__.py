"""Time and memory of the fused operations against their references; run as modules, see harness.py."""
