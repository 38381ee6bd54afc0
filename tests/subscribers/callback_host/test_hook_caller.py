"""Calls of hooks: what is called, with what, and which flags changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers import PrinterCallback, TrainerCallback, TrainerControl, trainer_callback
from transformers.integrations import integration_utils

from lineside.bus.protocol.events import CONTROL_BITS, Event, Stream
from lineside.subscribers.callback_host.hook_caller import (
    FlagChanges,
    HookCaller,
    signature_problems,
)
from lineside.subscribers.callback_host.rebuild.run_image import RunImage
from lineside.subscribers.testing import synthetic_run

EVENTS = list(synthetic_run(2, evaluate_every=2, save_every=2))
STOP, EPOCH_STOP, SAVE, EVALUATE, LOG = (1 << bit for bit in range(len(CONTROL_BITS)))


def play(callback: Any, events: Any = EVENTS) -> dict[str, FlagChanges]:
    """Call ``callback`` for each event; the changes of flags by kind, where there are any."""
    image, changes = RunImage(), {}
    caller = HookCaller(callback, image)
    for stream, event in events:
        image.observe(stream, event)
        changes[event.kind] = caller.call(event)
    return {kind: found for kind, found in changes.items() if found != FlagChanges()}


def with_flags(kind: str, flags: int) -> list[tuple[Stream, Event]]:
    return [
        (stream, replace(event, control=flags) if event.kind == kind else event)
        for stream, event in EVENTS
    ]


class Setting(TrainerCallback):
    """Sets ``flag`` to ``value`` in on_step_end."""

    def __init__(self, flag: str, value: bool, is_returned: bool = False) -> None:
        self.flag, self.value, self.is_returned = flag, value, is_returned

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
        if self.is_returned:
            return TrainerControl(**{self.flag: self.value})
        setattr(control, self.flag, self.value)
        return None


@pytest.mark.parametrize("is_returned", [False, True])
@pytest.mark.parametrize("flag", CONTROL_BITS)
def test_a_flag_that_a_hook_sets_is_a_change(flag: str, is_returned: bool) -> None:
    changes = play(Setting(flag, True, is_returned))

    assert changes == {"step_end": FlagChanges(set=frozenset({flag}))}


def test_a_flag_that_training_had_set_is_no_change() -> None:
    assert play(Setting("should_save", True), events=with_flags("step_end", SAVE)) == {}


def test_a_flag_that_a_hook_clears_is_a_change() -> None:
    changes = play(Setting("should_save", False), events=with_flags("step_end", SAVE | LOG))

    assert changes == {"step_end": FlagChanges(cleared=frozenset({"should_save"}))}


def test_a_hook_finds_the_flags_of_its_own_event() -> None:
    found: list[tuple[int, bool, bool]] = []

    class Flags(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            found.append((state.global_step, control.should_save, control.should_log))
            control.should_log = True  # of this step only

    events = [
        (stream, replace(event, control=SAVE) if event.step == 2 else event)
        for stream, event in EVENTS
    ]
    play(Flags(), events=events)

    assert found == [(1, False, False), (2, True, False)]


def test_a_callback_may_change_its_logs_and_later_hooks_do_not_see_that() -> None:
    histories: list[Any] = []

    class Popping(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **given: Any) -> None:
            logs.pop("loss")
            histories.append([dict(one) for one in state.log_history])

    play(Popping())

    assert histories[-1] == [
        {"loss": 1.0, "epoch": 0.5, "step": 1},
        {"loss": 0.5, "epoch": 1.0, "step": 2},
    ]
    play(PrinterCallback())


def test_hooks_that_a_callback_inherits_are_not_called() -> None:
    image = RunImage()
    caller = HookCaller(Setting("should_log", True), image)
    prepared = []
    for stream, event in EVENTS:
        image.observe(stream, event)
        prepared.append((event.kind, caller.prepare(event)))

    assert {kind for kind, call in prepared if call is not None} == {"step_end"}


def test_a_hook_that_a_tracker_has_wrapped_is_called() -> None:
    callback, called = Setting("should_log", True), []
    callback.on_save = lambda *args, **given: called.append(len(args))

    play(callback)

    assert called == [3]


def test_an_exception_of_the_callback_comes_through() -> None:
    class Failing(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        play(Failing())


def test_events_of_other_producers_and_kinds_are_no_hooks() -> None:
    image = RunImage()
    stream, start = EVENTS[0]
    image.observe(stream, start)
    image.observe(stream._replace(producer="rank1"), Event(0, 0.0, 0, "log", 7, data={"logs": {}}))
    image.observe(stream, Event(1, 0.0, 0, "train_error", 7))
    image.observe(stream, Event(2, 0.0, 0, "a_script_s_own", 9, data={"logs": {"a": 1}}))
    caller = HookCaller(Setting("should_log", True), image)

    assert caller.call(Event(2, 0.0, 0, "a_script_s_own", 9)) == FlagChanges()
    assert (image.state.global_step, image.state.log_history) == (0, [])


class Guide(TrainerCallback):
    def on_evaluate(
        self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any
    ) -> None: ...

    def on_log(self, args: Any, state: Any, control: Any, step: int, **given: Any) -> None: ...

    def on_save(self, args: Any, state: Any, control: Any) -> None: ...

    def on_evalute(self, args: Any, state: Any, control: Any, **given: Any) -> None: ...

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **given: Any
    ) -> None: ...


def test_a_hook_that_the_trainer_does_not_call_as_written_is_reported() -> None:
    assert signature_problems(Guide()) == (
        "Guide.on_evaluate: its parameter 'logs' always has its default, because the Trainer does "
        "not pass it; it passes metrics",
        "Guide.on_save fails at each call: the Trainer passes model, processing_class, optimizer, "
        "lr_scheduler, train_dataloader, eval_dataloader, which it does not take; add **kwargs",
        "Guide.on_log: its parameter 'step' is missing at each call, because the Trainer does not "
        "pass it; it passes logs",
        "Guide.on_evalute is never called: the Trainer's hook is on_evaluate",
    )


def test_callbacks_of_transformers_are_called_as_written() -> None:
    kinds = [*vars(integration_utils).values(), *vars(trainer_callback).values()]
    checked = [
        signature_problems(object.__new__(cls))
        for cls in kinds
        if isinstance(cls, type)
        and issubclass(cls, TrainerCallback)
        and cls is not trainer_callback.CallbackHandler
        and not hasattr(cls, "__del__")  # of one that was never set up
    ]

    assert len(checked) > 12
    assert not any(checked)
