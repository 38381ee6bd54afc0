"""Whether an attempt is over, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lineside.bus.protocol import commands
from lineside.bus.protocol.events import RANK_0, Event, Stream, is_rank
from lineside.store.status import verdict
from lineside.store.status.verdict import ProcessExit, RankState, judge_attempt
from lineside.subscribers.callback_host.trackers.tracker import EndStatus, RunEnd

_HEARTBEAT_AFTER_LOSS = 5.0  # as for the run's status: a later heartbeat proves that it lives
_STATUSES: Mapping[str, EndStatus] = {
    verdict.FINISHED: "finished",
    verdict.SUPERSEDED: "finished",  # the same process goes on with the next attempt
    verdict.STOPPED: "stopped",
    verdict.INTERRUPTED: "stopped",
    verdict.FAILED: "failed",
    verdict.KILLED: "failed",
}


def end_status(status: str) -> EndStatus:
    """The status for a tracker of an ended attempt that has this ``status`` in the store."""
    return _STATUSES.get(status, "lost")


class AttemptEnd:
    """Follows the processes of one attempt, from events of all streams of its run."""

    def __init__(self, attempt: str) -> None:
        self._attempt = attempt
        self._ranks: dict[str, RankState] = {RANK_0: RankState()}
        self._exit: ProcessExit | None = None
        self._stopped_by: str | None = None
        self._error: Mapping[str, Any] | None = None
        self._has_run_end = False
        self._has_successor = False
        self._next_seq = 0  # of rank 0
        self._emitted = 0  # as rank 0's process counted
        self._time = 0.0

    def skip_to(self, stream: Stream, seq: int) -> None:
        """The events of a stream before ``seq`` will not come."""
        if stream.producer == RANK_0 and stream.attempt == self._attempt:
            self._next_seq = max(self._next_seq, seq)

    def observe(self, stream: Stream, event: Event) -> None:
        """Take what an event of the run reports."""
        data = event.data or {}
        if is_rank(stream.producer):
            if stream.attempt == self._attempt:
                self._observe_rank(stream.producer, event, data)
            elif stream.producer == RANK_0 and stream.attempt > self._attempt:
                self._has_successor = True
        elif stream.producer == commands.CONTROL_PRODUCER:
            if stream.attempt == self._attempt and event.kind == commands.APPLIED:
                self._observe_applied(data)
        elif data.get("attempt") == self._attempt:
            self._observe_report(event, data)

    def find(self) -> RunEnd | None:
        """How the attempt ended; None while it is not over."""
        rank = self._ranks[RANK_0]
        is_gone = (rank.lost or self._exit is not None) and self._next_seq >= self._emitted
        if self._has_run_end or self._has_successor:
            return self._judge()
        return self.find_silent() if is_gone else None

    def find_silent(self) -> RunEnd | None:
        """How the attempt ended if nothing else comes; None while it may still train."""
        end = self._judge()
        return None if end.status == "lost" and not self._ranks[RANK_0].lost else end

    def _judge(self) -> RunEnd:
        self._ranks[RANK_0].has_pending_events = self._next_seq < self._emitted
        found = judge_attempt(self._ranks, self._exit, self._stopped_by)
        return RunEnd(end_status(found.status), self._error, found.ended_at or self._time)

    def _observe_rank(self, producer: str, event: Event, data: Mapping[str, Any]) -> None:
        rank = self._ranks.setdefault(producer, RankState())
        if producer == RANK_0:
            if self._emitted and event.seq >= self._emitted:
                rank.lost, self._exit = False, None  # its process lives
            self._next_seq = max(self._next_seq, event.seq + 1)
            self._time = event.time
        if event.kind == "train_begin":
            rank.began, rank.ended = True, False
        elif event.kind == "train_end":
            rank.ended, rank.ended_at = True, event.time
        elif event.kind == "train_error":
            rank.how, rank.ended_at = verdict.RAISED, event.time
            self._observe_error(rank, data)
        elif event.kind == "run_end":
            self._has_run_end = self._has_run_end or producer == RANK_0
            if rank.how != verdict.RAISED:
                rank.how = str(data.get("how") or "exit")
                if rank.how == "exception" or not rank.ended:
                    rank.ended_at = event.time
                self._observe_error(rank, data)
        elif data.get("outside_training") is True and not rank.began:
            rank.ended, rank.ended_at = True, event.time

    def _observe_error(self, rank: RankState, data: Mapping[str, Any]) -> None:
        error = data.get("error")
        if isinstance(error, Mapping):
            rank.error = ": ".join(str(error[key]) for key in ("type", "message") if key in error)
            self._error = self._error or error  # the first to fail has the cause

    def _observe_applied(self, data: Mapping[str, Any]) -> None:
        if data.get("op") == "stop":
            self._stopped_by = str(data.get("issued_by") or "a command")

    def _observe_report(self, event: Event, data: Mapping[str, Any]) -> None:
        """Take the report of another process on one of the attempt's."""
        producer = data.get("producer", RANK_0)
        emitted = data.get("emitted")
        if producer == RANK_0 and isinstance(emitted, int):
            self._emitted = max(self._emitted, emitted)
        rank = self._ranks.setdefault(str(producer), RankState())
        if event.kind == "process_lost":
            rank.lost, rank.ended_at = True, rank.ended_at or event.time
            step = data.get("step")
            rank.step = step if isinstance(step, int) else None
        elif event.kind == "heartbeat":
            if rank.lost and event.time > (rank.ended_at or 0.0) + _HEARTBEAT_AFTER_LOSS:
                rank.lost, rank.ended_at = False, None
        elif event.kind == "process_exit" and data.get("outlived") is not True:
            code, signal = data.get("exit_code"), data.get("signal")
            self._exit = ProcessExit(
                code if isinstance(code, int) else None,
                signal if isinstance(signal, str) else None,
                event.time,
                data.get("out_of_memory") is True,
            )
