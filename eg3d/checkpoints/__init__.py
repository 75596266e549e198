"""Reading and writing networks as safetensors with their configuration as plain data."""
