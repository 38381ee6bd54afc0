"""Reader, producers and command client: the way to the broker. Every process may import it."""
