"""``lineside demo``: a training run beside a whole stack, and an account of its events."""
