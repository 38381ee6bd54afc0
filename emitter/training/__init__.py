"""Runs in the training process: opens runs and publishes their events.

``callback`` and ``control`` import it. It never imports zmq.
"""
