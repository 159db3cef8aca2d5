"""A conversation that turns into memory while nobody is talking."""
