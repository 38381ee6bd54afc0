"""Holds: hard links that keep a checkpoint from rotation until the archiver has copied it.

Training makes them, the archiver reads and removes them. Both rank checkpoints by the same rule.
"""
