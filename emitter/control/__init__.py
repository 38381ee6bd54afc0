"""Runs in the training process: applies commands on all ranks at one step. Never imports zmq."""
