"""Records alerts of the watchdog, for tests of the API and the pages."""

from __future__ import annotations

import time
from typing import Any

from lineside.bus.protocol.event_kinds import ALERT
from lineside.bus.protocol.events import Stream
from tests.dashboard.conftest import Harness


def record_alert(harness: Harness, alert_id: str, run: str = "tiny-1", **changes: Any) -> None:
    """Record an alert that is open since now, or as in ``changes``."""
    now = time.time()
    data = {
        "id": alert_id,
        "rule": "gpu_idle",
        "subject": "GPU 0",
        "state": "open",
        "severity": "warning",
        "summary": "GPU 0 was idle for 12 minutes while training was running",
        "details": {"last step": 1_240, "host": "node7", "loss": 2.4121},
        "action": f"lineside show {run}",
        "opened_at": now,
        "updated_at": now,
        "closed_at": now if changes.get("state") == "closed" else None,
        "openings": 1,
        **changes,
    }
    harness.feeder.record(Stream(run, "watchdog", "w1"), ALERT, now, 1240, data)
