"""Fused operations on tri-planes: a folder holds the promise (op.py), its definition (reference.py) and the speed."""
