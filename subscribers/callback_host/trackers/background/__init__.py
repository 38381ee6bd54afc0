"""Trackers whose package sends in the background what a hook logs."""
