"""What is made from a sample: density slabs, depth maps, points, images, meshes."""
