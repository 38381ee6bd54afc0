"""``lineside stop``, ``save``, ``pause`` and the others: commands to a running training."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lineside.bus.errors import LinesideError, RunNotFound, UsageError
from lineside.bus.protocol.commands import EXPIRES_SECONDS, GRACE_SECONDS, Command
from lineside.bus.protocol.events import is_run_id
from lineside.bus.settings import Settings
from lineside.bus.terminal_text import printable
from lineside.cli.output import JsonOption, print_json
from lineside.cli.run_lookup import RunArgument, open_history, resolve_run

ReasonOption = Annotated[str, typer.Option(help="The reason, kept with the command.")]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Show each state until the command is done.")
]
ExpiresOption = Annotated[
    float, typer.Option(min=1, max=31_536_000, help="Seconds until the command expires.")
]
AheadOption = Annotated[
    bool,
    typer.Option("--ahead", help="Send to the run with the id RUN, even if it does not train yet."),
]

_ALTERNATIVE = "or command it without a store, by --ahead and its whole id"


_POLL_SECONDS = 1.0
_END_GRACE_SECONDS = 3.0


class CommandNotApplied(LinesideError):
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


def _simple_command(op: str, help_text: str) -> Callable[..., None]:
    """The command function of an operation without arguments."""

    def command(
        run: RunArgument,
        reason: ReasonOption = "",
        wait: WaitOption = True,
        expires: ExpiresOption = EXPIRES_SECONDS,
        ahead: AheadOption = False,
        json: JsonOption = False,
    ) -> None:
        _send(run, op, {}, reason, wait, expires, ahead, json)

    command.__name__, command.__doc__ = op, help_text
    return command


save = _simple_command("save", "Make a training write a checkpoint after its current step.")
evaluate = _simple_command("evaluate", "Make a training evaluate after its current step.")
log = _simple_command("log", "Make a training log its metrics after its current step.")
resume = _simple_command("resume", "Resume a paused training.")


def pause(
    run: RunArgument,
    seconds: Annotated[
        float | None, typer.Option("--for", min=1, help="Resume by itself after this many seconds.")
    ] = None,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    expires: ExpiresOption = EXPIRES_SECONDS,
    ahead: AheadOption = False,
    json: JsonOption = False,
) -> None:
    """Pause a training after its current step.

    It resumes by itself after a day, or after the seconds of --for.
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

    The schedule continues from there.
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
    from lineside.bus.client.command_client import CommandClient

    command = Command(op, args, reason, expires_at=time.time() + expires)
    name, is_known = _resolve_target(run, ahead)
    end_watcher = _RunEndWatcher(name) if is_known else None
    with CommandClient(Settings.from_env().broker) as client:
        client.send(name, command)
        if not wait:
            _print_state(command.id, op, "requested", 0, "", json)
            return
        state = ""
        for status in client.follow(name, command.id, expires + GRACE_SECONDS, end_watcher):
            state = status.state
            _print_state(command.id, op, state, status.step, status.detail, json)
    if state != "applied":
        raise CommandNotApplied(
            _not_applied_message(command, name, state, end_watcher.status if end_watcher else "")
        )


def _not_applied_message(command: Command, run: str, state: str, end_status: str) -> str:
    """The error for a command in ``state`` whose run ended as ``end_status``."""
    op = command.op
    if state in ("rejected", "expired", "superseded"):
        return f"{op} was not applied"
    if not end_status:
        later = f"`lineside audit --run {run}` shows a later one"
        return f"{op}: run {run} has not answered in time; {later}"
    if state == "delivered":
        return f"{op}: run {run} is {end_status}; it is unknown whether the command was applied"
    left = f"{max(command.expires_at - time.time(), 0):.0f} s"
    then = f"if the run resumes within {left}, it is applied then"
    return f"{op} was not applied: run {run} is {end_status}; {then}"


class _RunEndWatcher:
    """True once ``run`` has been over for so long that it would have answered."""

    def __init__(self, run: str) -> None:
        self.status = ""
        self._run = run
        self._history = open_history()
        self._next_check = self._ended_since = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next_check:
            return bool(self.status)
        self._next_check = now + _POLL_SECONDS
        try:
            found = self._history.run(self._run)
            accepts_commands, status = found.accepts_commands, found.status
        except RunNotFound:
            accepts_commands, status = False, "deleted"
        except LinesideError:  # answers still come over the broker
            return False
        if accepts_commands:
            self._ended_since = 0.0
        elif not self._ended_since:
            self._ended_since = now
        elif now - self._ended_since >= _END_GRACE_SECONDS:
            self.status = status
        return bool(self.status)


def _resolve_target(run: str, ahead: bool) -> tuple[str, bool]:
    """The id of the run to command, and whether a store here knows it.

    Raises:
        RunNotFound: ``run`` with ``ahead`` is not an id.
        UsageError: the run takes no commands now.
        UsageError, StoreError: as ``resolve_run`` does.
    """
    if ahead:
        if not is_run_id(run):
            raise RunNotFound(run)
        return run, False
    name, found = resolve_run(run, _ALTERNATIVE)
    if found is not None and (why := open_history().commands_unavailable_reason(found)):
        remedy = "`lineside runs --status running` lists the runs that train"
        raise UsageError(f"run {name!r} takes no commands. {why} {remedy}")
    return name, found is not None


def _print_state(name: str, op: str, state: str, step: int, detail: str, json: bool) -> None:
    if json:
        print_json(
            {"id": name, "op": op, "state": state, "step": step, "detail": detail}, indent=None
        )
        return
    where = "" if state == "requested" else f" at step {step:,}"
    typer.echo(f"{op}: {state}{where}" + (f": {printable(detail)}" if detail else ""))
