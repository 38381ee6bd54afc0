"""Runs in the training process: opens runs and publishes their events.

``callback``, ``control`` and ``launch`` import it. It never imports zmq.
"""
