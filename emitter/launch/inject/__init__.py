"""Prepended to PYTHONPATH by `lineside run`: puts the callback into every Trainer."""
