"""The live stream: server-sent events for every page that listens."""
