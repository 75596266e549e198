"""The model of human head shapes: made from a parametric body, kept as one small file."""
