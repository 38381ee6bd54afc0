"""The commands of ``lineside``, one file for each. Only ``cli.main`` imports them."""
