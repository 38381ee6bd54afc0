"""Copies a home into one file while its processes run, and makes a home from such a file."""
