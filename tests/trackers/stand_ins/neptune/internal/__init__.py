"""As in Neptune's package."""
