"""A callback that notes everything it is given, in training and hosted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgpack
from transformers import TrainerCallback, TrainerState

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS, STEP_KINDS
from lineside.bus.protocol.events import CONTROL_BITS, Event, Stream
from lineside.emitter.spool.sanitize import clean_data
from lineside.subscribers.callback_host.hook_caller import HookCaller
from lineside.subscribers.callback_host.rebuild.run_image import RunImage
from tests.emitter.conftest import read_spool

PROPERTIES = (
    "train_batch_size",
    "eval_batch_size",
    "world_size",
    "process_index",
    "local_process_index",
    "should_save",
    "should_log",
    "n_gpu",
    "device",
    "parallel_mode",
    "place_model_on_device",
)
# Of what changes at each step a hosted callback knows what the newest log has, and a log has the
# learning rate of the step that it is about.
_STEP_HOOKS = {f"on_{kind}" for kind in STEP_KINDS}
_WITHOUT_RATES = {"on_log", *_STEP_HOOKS}


class HookNotes(TrainerCallback):
    """``notes`` has one dict for each hook."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []

    def _note(self, hook: str, args: Any, state: Any, control: Any, given: dict[str, Any]) -> None:
        fields = {name: vars(state)[name] for name in TrainerState.__dataclass_fields__}
        del fields["stateful_callbacks"]  # of other callbacks
        if hook in _STEP_HOOKS:
            del fields["num_input_tokens_seen"]  # of the newest log
        self.notes.append(
            {
                "hook": hook,
                "given": sorted(given),
                "state": copy.deepcopy(fields),
                "control": [getattr(control, name) for name in CONTROL_BITS],
                "logs": copy.deepcopy(given.get("logs")),
                "metrics": copy.deepcopy(given.get("metrics")),
                "loaders": {
                    name: _loader(given[f"{name}_dataloader"]) for name in ("train", "eval")
                },
                "rates": None if hook in _WITHOUT_RATES else _rates(given),
                "args": args.to_dict() if hook == "on_train_begin" else None,
            }
        )


def _hook(hook: str) -> Any:
    def method(self: HookNotes, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._note(hook, args, state, control, given)

    return method


for _kind in LIFECYCLE_KINDS:
    setattr(HookNotes, f"on_{_kind}", _hook(f"on_{_kind}"))


def _loader(loader: Any) -> Any:
    if loader is None:
        return None
    return type(loader).__name__, len(loader), loader.batch_size, len(loader.dataset)


def _rates(given: dict[str, Any]) -> Any:
    if given["lr_scheduler"] is None:
        return None
    rates = [group["lr"] for group in given["optimizer"].param_groups]
    assert given["lr_scheduler"].get_last_lr() == rates
    return rates


def hosted(home: Path, callback: Any) -> list[tuple[Stream, Event]]:
    """Call ``callback`` from the events in the home's spool; returns these."""
    events = events_in(home)
    image = RunImage()
    caller = HookCaller(callback, image)
    for stream, event in events:
        image.observe(stream, event)
        caller.call(event)
    return events


def events_in(home: Path) -> list[tuple[Stream, Event]]:
    """The events of rank 0 in the spool of one run and attempt."""
    [(name, events)] = read_spool(home / "spool", "rank0").items()
    return [(Stream.parse(name), event) for event in events]


def on_wire(data: dict[str, Any], kind: str = "run_start") -> dict[str, Any]:
    """``data`` as a reader gets it."""
    clean, _, _ = clean_data(kind, data)
    decoded: dict[str, Any] = msgpack.unpackb(msgpack.packb(clean))
    return decoded
