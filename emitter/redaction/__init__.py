"""Finds secrets by name and by form, in the training process, the launcher and the shipper.

``spool.sanitize`` applies it to every value that leaves a process. Pure functions and tables of
data: it imports nothing of Lineside.
"""
