"""The watchdog process: it opens alerts on runs and on Lineside itself. Only the CLI imports it."""
