"""Limits of what the store keeps of one stream."""

MAX_SERIES = 10_000
"""Curves one stream may have. A training with more metrics makes up a new name each time."""
MAX_VALUE_NAMES = 1_000
"""Logged values that are no numbers one stream may have, each the newest of its name."""
