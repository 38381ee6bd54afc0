"""As in Neptune's package."""

from typing import Any


def verify_type(name: str, value: Any, expected: Any) -> None:
    """Raise for a value of another type."""
    if not isinstance(value, expected):
        raise TypeError(f"{name} is a {type(value).__name__}")
