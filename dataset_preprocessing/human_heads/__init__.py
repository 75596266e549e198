"""The model of human head shapes, made from a parametric body, and posed portraits of it with their true geometry."""
