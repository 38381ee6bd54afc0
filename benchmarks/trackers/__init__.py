"""Measures what trackers cost a training, in its own process and hosted by Lineside.

It runs where the trackers are installed: `make bench-trackers`.
"""
