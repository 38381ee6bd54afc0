"""The sidecar process: it sends the spool to the broker and delivers commands.

Only the CLI imports it. It never imports ``emitter.training`` or ``emitter.control``.
"""
