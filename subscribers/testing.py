"""For tests of your own subscribers: deliver a run to one, without a broker.

::

    outcome = deliver(LogCounter(), synthetic_run(steps=20))
    assert outcome.state == {"logs": 20}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lineside.bus.client.reader import Batch
from lineside.bus.errors import UsageError
from lineside.bus.protocol.commands import COMMAND, Command
from lineside.bus.protocol.event_kinds import METRICS, SUBSCRIBER_ERROR
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.settings import Settings
from lineside.subscribers.context import RunContext, RunFilter
from lineside.subscribers.event_loop import EventLoop
from lineside.subscribers.handler_runner import HandlerRunner, Setup, SubscriberStopped
from lineside.subscribers.handlers import Handlers
from lineside.subscribers.state.subscriber_state import Publication, SubscriberState
from lineside.subscribers.subscriber import SKIP, STOP, Subscriber

_ATTEMPT = "20260101T000000.000-0000"
_START = 1_767_225_600.0  # seconds since the epoch: the first of January 2026
_ALL = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """What a subscriber did with a run; ``published`` is in order within each stream."""

    run: RunContext
    published: tuple[Publication, ...]

    @property
    def state(self) -> dict[str, Any]:
        """The run's durable state."""
        return self.run.open_state()

    @property
    def metrics(self) -> list[Mapping[str, Any]]:
        """The metrics that handlers returned."""
        return [
            p.data["metrics"]
            for p in self.published
            if p.kind == METRICS and p.data and "metrics" in p.data
        ]

    @property
    def commands(self) -> list[Command]:
        """The commands that handlers sent."""
        return [Command.from_data(p.data) for p in self.published if p.kind == COMMAND]

    @property
    def errors(self) -> list[Mapping[str, Any]]:
        """The events that were given up."""
        return [p.data for p in self.published if p.kind == SUBSCRIBER_ERROR and p.data]


def deliver(
    subscriber: Subscriber, run: Iterable[tuple[Stream, Event]], *, on_error: str = STOP
) -> Outcome:
    """Hand every event of ``run`` to ``subscriber``, and then ``flush``, ``tick`` and ``close``.

    An exception of a handler is raised here, unless ``on_error`` is ``skip``.

    Raises:
        UsageError: the subscriber has a method of no event, or ``on_error`` is another policy.
    """
    handlers = Handlers(type(subscriber))
    if on_error not in (SKIP, STOP):
        raise UsageError(f"on_error {on_error!r}: expected {SKIP} or {STOP}")
    state_file, loop = SubscriberState(), EventLoop()
    setup = Setup(
        subscriber.name,
        on_error,
        type(subscriber),
        lambda: subscriber,
        handlers,
        state_file,
        RunFilter().matches,
        loop.wait_for,
        lambda: None,
    )
    try:
        events = list(run)
        processor = HandlerRunner(setup, events[0][0].run if events else "run")
        processor.run.is_caught_up = True
        for offset, (stream, event) in enumerate(events, 1):
            processor.process(Batch(offset, stream, (event,), ()))
        processor.tick(_START if not events else events[-1][1].time)
        processor.close()
        published = [
            pending.publication
            for stream in state_file.pending_streams()
            for pending in state_file.pending(stream, 0, _ALL)
        ]
        return Outcome(processor.run, tuple(published))
    except SubscriberStopped as error:
        raise (error.__cause__ or error) from None
    finally:
        state_file.close()
        loop.close()


def synthetic_run(
    steps: int = 100,
    *,
    run: str = "run",
    log_every: int = 1,
    evaluate_every: int = 0,
    save_every: int = 0,
    facts: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Stream, Event]]:
    """The events of a training of ``steps`` steps, one a second, whose loss falls as 1 / step.

    ``evaluate_every`` and ``save_every`` 0 do neither. ``facts`` are added to its ``run_start``.
    """
    stream, seq = Stream(run, "rank0", _ATTEMPT), 0
    state = {"max_steps": steps}

    def event(kind: str, step: int, data: Mapping[str, Any] | None = None) -> tuple[Stream, Event]:
        nonlocal seq
        seq += 1
        return stream, Event(seq - 1, _START + step, 0, kind, step, step / steps, 0, data)

    yield event("run_start", 0, {"name": run, "project": "tests", "state": state, **(facts or {})})
    yield event("train_begin", 0, {"state": state})
    yield event("epoch_begin", 0, {"state": state})
    for step in range(1, steps + 1):
        yield event("step_begin", step - 1)
        yield event("step_end", step)
        if log_every and step % log_every == 0:
            yield event("log", step, {"logs": {"loss": 1 / step, "epoch": step / steps}})
        if evaluate_every and step % evaluate_every == 0:
            metrics = {"eval_loss": 1 / step}
            yield event("evaluate", step, {"state": state, "metrics": metrics})
        if save_every and step % save_every == 0:
            checkpoint = f"/output/checkpoint-{step}"
            yield event("save", step, {"state": state, "checkpoint": checkpoint})
    yield event("epoch_end", steps, {"state": state})
    yield event("train_end", steps, {"state": state})
    yield event("run_end", steps, {"how": "exit", "error": None})


def recorded_run(run: str, settings: Settings | None = None) -> Iterator[tuple[Stream, Event]]:
    """The events of a run in the store, by its id or name, in the order in which they came.

    The store keeps step-level events as timings, so they are not among these.

    Raises:
        RunNotFound: there is no such run.
    """
    from lineside.store.database.engine import open_store
    from lineside.store.history.history import History

    engine = open_store((settings or Settings.from_env()).store)
    try:
        history = History(engine)
        found = history.find(run).id
        for row in history.iter_events(found):
            yield (
                Stream(found, row.producer, row.attempt),
                Event(
                    seq=row.seq,
                    time=row.time.timestamp(),
                    monotonic_ns=0,
                    kind=row.kind,
                    step=row.step,
                    epoch=row.epoch,
                    control=row.control,
                    data=row.data,
                ),
            )
    finally:
        engine.dispose()
