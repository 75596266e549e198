"""Fine-tuning the generator's geometry with a learned reward on its density field."""
