"""Runs in the training process: applies commands on all ranks at one step.

Only ``callback`` imports it. It never imports zmq.
"""
