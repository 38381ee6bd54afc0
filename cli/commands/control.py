"""``lineside stop``, ``save``, ``pause`` and the like: commands to a run that is being trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lineside.bus.errors import CommandError, LinesideError, RunNotFound
from lineside.bus.protocol.commands import EXPIRES_SECONDS, GRACE_SECONDS, Command
from lineside.bus.protocol.events import is_run_id
from lineside.bus.settings import Settings
from lineside.bus.text import printable
from lineside.cli.commands.runs import RunArgument, look_up, open_history
from lineside.cli.output import JsonOption, print_json

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


_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 3.0


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
    """Hold a training up after its current step.

    It goes on by itself after a day, or as many seconds as --for says.
    """
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
    """Change a training's learning rate.

    Its schedule goes on from there.
    """
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
    from lineside.bus.client.controller import Controller

    command = Command(op, args, reason, expires_at=time.time() + expires)
    name, is_known = _target(run, ahead)
    end = _End(name) if is_known else None
    with Controller(Settings.from_env().broker, name) as controller:
        controller.send(command)
        if not wait:
            _show(command.id, op, "requested", 0, "", json)
            return
        state = ""
        for progress in controller.follow(command.id, expires + GRACE_SECONDS, end):
            state = progress.state
            _show(command.id, op, state, progress.step, progress.detail, json)
    if state != "applied":
        raise NotDone(_shortfall(command, name, state, end.status if end else ""))


def _shortfall(command: Command, run: str, state: str, ended: str) -> str:
    """What to say of a command that came as far as ``state``; ``ended`` is how its run did."""
    op = command.op
    if state in ("rejected", "expired", "superseded"):
        return f"{op} was not applied"
    if not ended:
        later = f"`lineside audit --run {run}` tells of a later one"
        return f"{op}: no answer has come in time from run {run}; {later}"
    if state == "delivered":
        return f"{op}: run {run} is {ended}; whether it was applied is not known"
    left = f"{max(command.expires_at - time.time(), 0):.0f} s"
    then = f"should it go on within {left}, it is applied then"
    return f"{op} was not applied: run {run} is {ended}; {then}"


class _End:
    """Whether ``run`` has been over for long enough that what was sent to it would be answered."""

    def __init__(self, run: str) -> None:
        self.status = ""
        self._run = run
        self._history = open_history()
        self._look_at = self._over_since = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._look_at:
            return bool(self.status)
        self._look_at = now + _LOOK_SECONDS
        try:
            found = self._history.run(self._run)
            takes_commands, status = found.takes_commands, found.status
        except RunNotFound:
            takes_commands, status = False, "deleted"
        except LinesideError:  # what the broker says goes on being heard
            return False
        if takes_commands:
            self._over_since = 0.0
        elif not self._over_since:
            self._over_since = now
        elif now - self._over_since >= _ANSWER_SECONDS:
            self.status = status
        return bool(self.status)


def _target(run: str, ahead: bool) -> tuple[str, bool]:
    """The id of the run to command, and whether a store here knows it.

    Raises:
        RunNotFound, CommandError: there is none that could take a command now.
        UsageError, StoreError: as ``look_up`` does.
    """
    if ahead:
        if not is_run_id(run):
            raise RunNotFound(run)
        return run, False
    name, found = look_up(run, _OTHERWISE)
    if found is not None and (why := open_history().why_no_commands(found)):
        raise CommandError("RUN", name, f"a training that takes commands. {why.rstrip('.')}")
    return name, found is not None


def _show(name: str, op: str, state: str, step: int, detail: str, json: bool) -> None:
    if json:
        print_json(
            {"id": name, "op": op, "state": state, "step": step, "detail": detail}, indent=None
        )
        return
    where = "" if state == "requested" else f" at step {step:,}"
    typer.echo(f"{op}: {state}{where}" + (f": {printable(detail)}" if detail else ""))
