"""Fields: density and colour at any point of space, and what can be asked of them."""
