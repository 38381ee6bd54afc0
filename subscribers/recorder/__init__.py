"""The recorder process: it writes every event into the store."""
