"""``lineside exporter``: serves the newest state of every run to Prometheus.

It reads the bus, keeps counters in a small file, and renders a page every five seconds.
"""
