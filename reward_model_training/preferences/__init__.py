"""Rankings of shapes: their files, their reduction to pairs, anchors, and a simulated annotator."""
