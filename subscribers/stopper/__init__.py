"""The stopper process: it applies rules to runs and sends commands. Only the CLI imports it."""
