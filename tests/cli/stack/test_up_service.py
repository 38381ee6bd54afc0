"""How long ``lineside up`` waits for a stack that is not ready."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.bus.settings import Settings
from lineside.cli.configuration import loading
from lineside.cli.stack import stack as stack_module
from lineside.cli.stack import up_service
from lineside.cli.stack.stack import Stack, StackFailed
from lineside.cli.stack.up_service import UpService

PAGE = "http://127.0.0.1:7431"
BEHIND = f"{PAGE}/readyz answers 503: The recorder is 3 hours behind."


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UpService:
    """A stack that was started, and has had its time to be ready."""
    settings = Settings.from_env({"LINESIDE_HOME": str(tmp_path)})
    stack = Stack(settings, loading.load(None, tmp_path), report=lambda _: None)
    stack.addresses["dashboard"] = PAGE
    monkeypatch.setattr(stack, "_is_broker_ready", lambda: True)
    stack._broker_answers = True
    monkeypatch.setattr(up_service, "_POLL_SECONDS", 0.0)
    return UpService(stack)


def test_a_recorder_that_catches_up_for_long_does_not_end_the_stack(
    up: UpService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = {f"{PAGE}/healthz": None, f"{PAGE}/readyz": BEHIND}
    monkeypatch.setattr(stack_module, "http_problem", problems.get)
    sent: list[tuple[str, ...]] = []
    monkeypatch.setattr(up_service, "notify", lambda *what: sent.append(what))
    up.run_once()
    up.run_once()
    assert sent == [("READY=1", f"STATUS=page {PAGE}")]
    output = capsys.readouterr()
    assert BEHIND in output.err
    assert "Lineside is up." in output.out


def test_a_page_that_does_not_answer_ends_it(
    up: UpService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "http_problem", lambda url: f"{url} does not answer")
    with pytest.raises(StackFailed, match="/healthz does not answer"):
        up.run_once()
