"""Remembers which run wrote each checkpoint, so that a resumed training continues its run.

Runs in the training process; ``callback.py`` and ``emitter.training`` import it.
"""
