"""The ``lineside`` command. It imports every room, lazily; no room imports it."""
