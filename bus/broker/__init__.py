"""The broker process: it keeps the journal and delivers from it.

Only the CLI starts it; clients never import it.
"""
