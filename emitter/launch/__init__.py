"""The ``lineside run`` process: it injects the callback into a command and outlives it.

Only the CLI imports it. Trainer processes load ``inject`` from its folder.
"""
