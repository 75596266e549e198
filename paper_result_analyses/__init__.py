"""Figures and numbers from finished runs: measure (slow, writes tables), draw (fast, reads them), report."""
