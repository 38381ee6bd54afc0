"""Independent processes that react to events."""
