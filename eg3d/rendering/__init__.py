"""Tri-plane lookup, rays, depth sampling and compositing: pure functions on tensors."""
