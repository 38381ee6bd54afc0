"""Callbacks that are no TrainerCallback. ``callback_config`` makes them."""
