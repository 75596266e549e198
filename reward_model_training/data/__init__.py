"""Representations of seeds, rows of ranked seeds, and the Lightning data module."""
