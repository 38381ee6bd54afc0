"""A home whose spool no shipper takes."""

from tests.emitter.conftest import home, spool_events

__all__ = ["home", "spool_events"]
