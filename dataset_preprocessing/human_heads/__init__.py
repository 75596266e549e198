"""Posed portraits of a statistical head model with hair and glasses, whose true geometry is known."""
