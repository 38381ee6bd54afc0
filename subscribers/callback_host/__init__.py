"""The callback host: it runs Trainer callbacks outside training. Only the CLI imports it."""
