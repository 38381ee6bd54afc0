"""``lineside up``: the stack as supervised child processes. Commands and demo import it."""
