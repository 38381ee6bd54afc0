"""Reads what a run begins with: process, arguments, model, loaders, state.

A fact that cannot be read is left out. Data is never iterated. ``SpoolWriter`` makes the facts
encodable and redacts their secrets. ``training`` and ``callback`` import it.
"""
