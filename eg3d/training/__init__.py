"""Training the generator: losses, schedules, phases, exact resume."""
