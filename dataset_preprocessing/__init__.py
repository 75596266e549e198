"""Data sets for the generator: images with camera labels, in the EG3D folder/zip format."""
