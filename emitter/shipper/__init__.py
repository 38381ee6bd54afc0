"""The sidecar process: it carries the spool to the broker and commands back. Never imports
``emitter.training``."""
