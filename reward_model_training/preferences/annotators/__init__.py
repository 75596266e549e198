"""Simulated annotators: rules that stand in for people who rank shapes. None of them is a person."""
