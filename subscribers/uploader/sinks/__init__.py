"""What sends a batch to one kind of receiver."""
