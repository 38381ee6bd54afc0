"""The types of alerts."""

from __future__ import annotations

import json

from lineside.subscribers.watchdog.alert import Alert, AlertKey


def test_the_data_of_the_event_holds_all_but_what_its_stream_names() -> None:
    alert = Alert(
        "a1", "r", "name", "p", "nan", "loss", "open", "critical", "loss is NaN", "lineside show r",
        1.0, 2.0, details={"step": 7},
    )  # fmt: skip

    data = json.loads(json.dumps(alert.to_event_data()))

    assert data.keys() == set(Alert.__slots__) - {"run", "run_name", "project"}
    assert data["details"] == {"step": 7}
    assert alert.key == AlertKey("r", "nan", "loss")
    assert alert.is_open
