"""The live stream of changes, as server-sent events."""
