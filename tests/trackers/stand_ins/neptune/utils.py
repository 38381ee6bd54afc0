"""As in Neptune's package."""

from typing import Any


def stringify_unsupported(value: Any) -> Any:
    """What Neptune cannot hold becomes text; this stand-in holds all."""
    return value
