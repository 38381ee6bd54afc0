"""``lineside.yaml``: which processes of the stack run, with their options. Commands import it."""
