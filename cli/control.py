"""``lineside stop``, ``save``, ``pause`` and the like: commands to a run that is being trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lineside.bus.commands import EXPIRES_SECONDS
from lineside.bus.errors import CommandError, LinesideError, RunNotFound
from lineside.bus.events import is_run_id
from lineside.bus.settings import Settings
from lineside.bus.text import printable
from lineside.cli.output import JsonOption, print_json
from lineside.cli.runs import RunArgument, look_up

ReasonOption = Annotated[str, typer.Option(help="Why; it is kept with the command.")]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Show each state until the command is done.")
]
ExpiresOption = Annotated[
    float, typer.Option(min=1, max=31_536_000, help="Seconds after which it is not applied.")
]
AheadOption = Annotated[
    bool, typer.Option("--ahead", help="Send it to the run whose id is RUN, training or not.")
]

_OTHERWISE = "or command it without a store, by --ahead and its whole id"


class NotDone(LinesideError):
    """The command was not applied."""


def stop(
    run: RunArgument,
    save: Annotated[bool, typer.Option(help="Write a checkpoint first.")] = True,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    expires: ExpiresOption = EXPIRES_SECONDS,
    ahead: AheadOption = False,
    json: JsonOption = False,
) -> None:
    """End a training after its current step."""
    _send(run, "stop", {"save": save}, reason, wait, expires, ahead, json)


def _plain(op: str, said: str) -> Callable[..., None]:
    """The command line of an op without arguments."""

    def command(
        run: RunArgument,
        reason: ReasonOption = "",
        wait: WaitOption = True,
        expires: ExpiresOption = EXPIRES_SECONDS,
        ahead: AheadOption = False,
        json: JsonOption = False,
    ) -> None:
        _send(run, op, {}, reason, wait, expires, ahead, json)

    command.__name__, command.__doc__ = op, said
    return command


save = _plain("save", "Have a training write a checkpoint after its current step.")
evaluate = _plain("evaluate", "Have a training evaluate after its current step.")
log = _plain("log", "Have a training log its metrics after its current step.")
resume = _plain("resume", "Let a paused training go on.")


def pause(
    run: RunArgument,
    seconds: Annotated[
        float | None, typer.Option("--for", min=1, help="Go on by itself after this many seconds.")
    ] = None,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    expires: ExpiresOption = EXPIRES_SECONDS,
    ahead: AheadOption = False,
    json: JsonOption = False,
) -> None:
    """Hold a training up after its current step, a day at most."""
    args = {} if seconds is None else {"seconds": seconds}
    _send(run, "pause", args, reason, wait, expires, ahead, json)


def set_lr(
    run: RunArgument,
    rate: Annotated[float, typer.Argument(metavar="X", help="The learning rate from now on.")],
    reason: ReasonOption = "",
    wait: WaitOption = True,
    expires: ExpiresOption = EXPIRES_SECONDS,
    ahead: AheadOption = False,
    json: JsonOption = False,
) -> None:
    """Change a training's learning rate; its schedule goes on from there."""
    _send(run, "set_lr", {"lr": rate}, reason, wait, expires, ahead, json)


def _send(
    run: str,
    op: str,
    args: dict[str, Any],
    reason: str,
    wait: bool,
    expires: float,
    ahead: bool,
    json: bool,
) -> None:
    from lineside.bus.commands import GRACE_SECONDS, Command
    from lineside.bus.controller import Controller

    command = Command(op, args, reason, expires_at=time.time() + expires)
    with Controller(Settings.from_env().broker, _target(run, ahead)) as controller:
        controller.send(command)
        if not wait:
            _show(command.id, op, "requested", 0, "", json)
            return
        state = ""
        for progress in controller.follow(command.id, expires + GRACE_SECONDS):
            state = progress.state
            _show(command.id, op, state, progress.step, progress.detail, json)
    if state != "applied":
        is_known = state in ("rejected", "expired", "superseded")
        raise NotDone(f"{op} was not applied" if is_known else f"{op}: no answer has come in time")


def _target(run: str, ahead: bool) -> str:
    """The id of the run to command.

    Raises:
        RunNotFound, CommandError: there is none that could take a command now.
        UsageError, StoreError: as ``look_up`` does.
    """
    if ahead:
        if not is_run_id(run):
            raise RunNotFound(run)
        return run
    name, found = look_up(run, _OTHERWISE)
    if found is not None and not found.takes_commands:
        raise CommandError("RUN", name, f"a run that is training: it is {found.status}")
    return name


def _show(name: str, op: str, state: str, step: int, detail: str, json: bool) -> None:
    if json:
        print_json(
            {"id": name, "op": op, "state": state, "step": step, "detail": detail}, indent=None
        )
        return
    where = "" if state == "requested" else f" at step {step:,}"
    typer.echo(f"{op}: {state}{where}" + (f": {printable(detail)}" if detail else ""))
