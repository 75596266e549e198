"""Looking at a trained generator: pictures, shapes and films of seeds, and a viewer in the browser."""
