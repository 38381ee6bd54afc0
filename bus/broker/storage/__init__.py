"""The broker's journal: the interface, SQLite behind it, and what is kept for how long.

Only the broker imports it.
"""
