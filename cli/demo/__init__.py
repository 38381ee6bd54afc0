"""``lineside demo``: a training beside a whole stack. Only its command imports it."""
