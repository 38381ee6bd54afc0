"""The sampler process: publishes how the machine and its GPUs are used, beside the training.

``starter`` runs in the training process; nothing else of this package does.
"""
