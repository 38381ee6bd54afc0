"""The fixtures of subscribers: a home, a broker and a store."""

from tests.subscribers.conftest import broker, engine, settings

__all__ = ["broker", "engine", "settings"]
