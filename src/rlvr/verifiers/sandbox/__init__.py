"""Where programs that a model wrote run."""
