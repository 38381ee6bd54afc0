"""The command ``lineside archiver``."""
