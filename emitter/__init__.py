"""All that enters a training process, and the shipper that carries its events to the bus."""
