"""Networks: mapping, synthesis, super-resolution and discriminator."""
