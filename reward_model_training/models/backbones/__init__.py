"""Encoders of the reward models, one module each; `registry.MODULES` lists them."""
