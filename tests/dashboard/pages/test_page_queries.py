"""What the page of a run costs, by the plans of its queries."""

from __future__ import annotations

from typing import Any

import httpx
from sqlalchemy import event

from tests.dashboard.conftest import Harness


def test_no_query_of_the_page_of_a_run_scans_all_events_of_the_run(
    harness: Harness, client: httpx.Client
) -> None:
    harness.train()
    statements: list[tuple[str, Any]] = []

    @event.listens_for(harness.engine, "before_cursor_execute")
    def remember(_connection: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if "FROM events" in statement:
            statements.append((statement, given))

    assert client.get("/runs/tiny-1").status_code == 200
    assert client.get("/parts/tiny-1").status_code == 200
    event.remove(harness.engine, "before_cursor_execute", remember)
    assert statements
    with harness.engine.connect() as connection:
        steps = {
            step.detail
            for statement, given in statements
            for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
            if " events " in step.detail
        }
    of_kind, of_numbers = "run_key=? AND kind=?", "run_key=? AND n=?"
    assert not {step for step in steps if of_kind not in step and of_numbers not in step}
