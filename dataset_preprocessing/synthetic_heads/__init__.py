"""Posed portraits of parametric heads whose true geometry is known."""
