"""Delivers notifications of alerts: a durable outbox, a thread for each target, a heartbeat."""
