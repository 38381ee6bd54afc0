"""The contract between Lineside's processes, the broker that keeps every event, and its reader."""
