"""What is made from a tri-plane: density grids and meshes."""
