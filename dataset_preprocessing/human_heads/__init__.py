"""The model of human head shapes, made from a parametric body, and posed portraits of it whose true geometry is known."""
