"""Runs in the training process: opens runs and publishes their events. Never imports zmq."""
