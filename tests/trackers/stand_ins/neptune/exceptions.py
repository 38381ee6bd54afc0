"""As in Neptune's package."""


class NeptuneMissingApiTokenException(Exception):
    """No token."""


class NeptuneMissingProjectNameException(Exception):
    """No project."""
