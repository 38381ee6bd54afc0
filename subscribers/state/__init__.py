"""Files of a subscriber for its state and progress, and how far the journal is processed."""
