"""The recorder process: it writes every event into the store. Only the CLI imports it."""
