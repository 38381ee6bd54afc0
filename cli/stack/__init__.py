"""``lineside up``: broker, recorder and dashboard as supervised child processes."""
