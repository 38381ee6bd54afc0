"""Copies the checkpoints of runs to an archive, and decides which of them it keeps."""
