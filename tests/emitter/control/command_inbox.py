"""Plays the shipper: puts commands into the inbox, and reads the answers to them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

from lineside.bus.protocol.commands import COMMAND, Command
from lineside.bus.protocol.event_kinds import EVALUATION_REVIEWED
from lineside.bus.protocol.events import Event
from lineside.bus.protocol.wire import Encoder
from lineside.emitter.control.leader import LeaderExecutor
from lineside.emitter.spool import inbox
from lineside.emitter.spool.status_page import PHASE, PHASES
from lineside.emitter.spool.status_reader import StatusPageFile
from lineside.emitter.training import shutdown
from tests.emitter.streams import data_of, open_page, open_publisher
from tests.support.tiny_trainer import HookLog
from tests.support.waiting import DEADLINE


def deliver(*asked: Command | Mapping[str, Any] | bytes) -> None:
    """Deliver commands, or data of a command event, or bytes as they are."""
    [executor] = _executors()
    folder = executor._channel._spool.folder.path
    size = inbox.deliver(folder, [_record(one) for one in asked])
    StatusPageFile(folder).set_inbox_bytes(size)


def review(seq: int, attempt: str = "") -> bytes:
    """The stopper's record that it has reviewed the evaluation ``seq`` of ``attempt`` or ours."""
    data = {"seq": seq, "attempt": attempt or open_publisher().identity.attempt}
    return Encoder().encode(0, time.time(), 0, EVALUATION_REVIEWED, 0, None, 0, data)


class DeliverAt(TrainerCallback):
    """Delivers the commands of ``at[step]`` when that step begins."""

    def __init__(self, at: Mapping[int, list[Any]]) -> None:
        self.at = dict(at)

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        deliver(*self.at.pop(state.global_step + 1, []))


def while_paused(*acts: Callable[[], object]) -> threading.Thread:
    """Call each of ``acts`` while training is paused, the next when it is paused again."""

    def run() -> None:
        until = time.monotonic() + DEADLINE
        for act in acts:
            while not _is_paused():
                assert time.monotonic() < until, "it was never paused"
                time.sleep(0.01)
            act()
            while any(one._channel.has_pending for one in _executors()):
                assert time.monotonic() < until, "the commands were not read"
                time.sleep(0.01)
            time.sleep(0.1)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def outcomes(answers: list[Event]) -> list[tuple[str, str, int]]:
    """Op, final state and step of each command."""
    ends = [event for event in answers if event.kind not in ("control_on", "control_delivered")]
    return [(str(data_of(e).get("op")), e.kind.removeprefix("control_"), e.step) for e in ends]


def rejection_reason(answers: list[Event]) -> str:
    [reason] = [data_of(e)["why"] for e in answers if e.kind == "control_rejected"]
    return str(reason)


def hook_calls(hook_log: HookLog, *kinds: str) -> list[tuple[str, int]]:
    return [(note["kind"], note["step"]) for note in hook_log.seen if note["kind"] in kinds]


def _executors() -> list[LeaderExecutor]:
    return [one for one in shutdown._state.open if isinstance(one, LeaderExecutor)]


def _is_paused() -> bool:
    with contextlib.suppress(ValueError):  # no run is open yet
        return PHASES[open_page().fields[PHASE]] == "paused"
    return False


def _record(asked: Command | Mapping[str, Any] | bytes) -> bytes:
    if isinstance(asked, bytes):
        return asked
    data = asked.to_data() if isinstance(asked, Command) else asked
    return Encoder().encode(0, time.time(), 0, COMMAND, 0, None, 0, data)
