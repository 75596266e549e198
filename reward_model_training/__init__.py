"""Preferences and the reward models learnt from them."""
