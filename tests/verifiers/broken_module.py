"""A module that cannot be loaded."""

raise ImportError("no such thing as mathematics")
