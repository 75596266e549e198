"""Three-dimensional face GANs guided by human preferences: generator, training, rendering."""
