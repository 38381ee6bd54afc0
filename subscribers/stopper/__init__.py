"""What the stopper decides by: rules, what each says of a run, and what it remembers of them."""
