"""The watchdog's rules: each judges a run, or Lineside itself, as it stands, and keeps nothing."""
