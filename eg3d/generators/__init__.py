"""Generators: latents to style codes, fields and images."""
