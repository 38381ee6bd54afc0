"""What training does with its checkpoints: names their run, finds them, and holds them.

Runs in the training process; ``callback.py`` and ``emitter.training`` import it.
"""
