"""What the dashboard stands on: the store, the bus, and the health of both."""
