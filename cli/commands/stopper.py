"""``lineside stopper``: applies rules to every run, or tests them on a recorded one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lineside.bus.errors import UsageError
from lineside.bus.service import configure_logging
from lineside.bus.settings import Settings
from lineside.cli.configuration.option import config_option, load_configuration
from lineside.cli.output import JsonOption, print_json, table

if TYPE_CHECKING:
    from lineside.subscribers.stopper.attempt_state import Trigger
    from lineside.subscribers.stopper.rules import Rule


def stopper(
    config: Annotated[Path | None, config_option()] = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file of rules.", show_default=False)
    ] = None,
    monitor: Annotated[str | None, typer.Option(help="Metric to monitor.")] = None,
    mode: Annotated[str | None, typer.Option(help="min, max, or auto by the name.")] = None,
    patience: Annotated[
        str | None, typer.Option(metavar="N", help="Act after N evaluations without a better one.")
    ] = None,
    min_delta: Annotated[
        str | None, typer.Option(metavar="X", help="Smallest change that counts as better.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="X", help="Compare with X instead of the best so far.")
    ] = None,
    threshold: Annotated[
        str | None, typer.Option(metavar="X", help="Act once the metric is as good as X.")
    ] = None,
    divergence: Annotated[
        str | None,
        typer.Option(
            metavar="X", help="Act once the metric is worse than its best by more than X."
        ),
    ] = None,
    not_finite: Annotated[
        str | None, typer.Option(metavar="N", help="Act after N NaNs or infinities in a row.")
    ] = None,
    max_seconds: Annotated[
        str | None, typer.Option(metavar="N", help="Act after N seconds of training.")
    ] = None,
    max_steps: Annotated[str | None, typer.Option(metavar="N", help="Act at step N.")] = None,
    start_after: Annotated[
        str | None, typer.Option(help="Ignore values before, as '500 steps' or '3 evaluations'.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="stop, save_and_stop, evaluate, set_lr or alert.")
    ] = None,
    factor: Annotated[
        str | None, typer.Option(metavar="X", help="set_lr multiplies the rate by X.")
    ] = None,
    min_lr: Annotated[
        str | None, typer.Option(metavar="X", help="Lowest rate that set_lr sets.")
    ] = None,
    cool_down: Annotated[
        str | None, typer.Option(metavar="N", help="Values to ignore after acting.")
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="Only runs of this project; * matches any text.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Only runs with this id or name; * matches any text.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report what would be done.")
    ] = False,
    backtest: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Show where the rules would have acted on a recorded run."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Stop runs by rules, or save, evaluate, change the learning rate, or alert."""
    options = {
        "monitor": monitor,
        "mode": mode,
        "patience": patience,
        "min_delta": min_delta,
        "baseline": baseline,
        "threshold": threshold,
        "divergence": divergence,
        "not_finite": not_finite,
        "max_seconds": max_seconds,
        "max_steps": max_steps,
        "start_after": start_after,
        "action": action,
        "factor": factor,
        "min_lr": min_lr,
        "cool_down": cool_down,
        "project": project,
        "run": run,
    }
    settings = Settings.from_env()
    configuration = None if config is None else load_configuration(config)
    if configuration is not None:
        dry_run = dry_run or configuration.values.stopper.dry_run
    given = {name: value for name, value in options.items() if value is not None}
    if configuration is not None and configuration.rules and not given and rules is None:
        chosen: Sequence[Rule] = configuration.rules
    else:
        chosen = _rules(settings, rules, given)
    if backtest is not None:
        _backtest(backtest, chosen, json)
        return
    if json:
        raise UsageError("--json is for --backtest: the stopper itself prints nothing")
    from lineside.subscribers.stopper.stopper import Stopper

    configure_logging()
    Stopper(settings, chosen, dry_run=dry_run).serve()


def _rules(settings: Settings, file: Path | None, options: dict[str, Any]) -> Sequence[Rule]:
    """The rules of the options, of the file, or of the file in the home.

    Raises:
        UsageError: there are no rules, or they are given twice.
    """
    from lineside.subscribers.stopper import rule_parser

    if options:
        if file is not None:
            raise UsageError(
                f"--{next(iter(options)).replace('_', '-')} and --rules: expected one rule by "
                "options, or a file"
            )
        return (rule_parser.parse_rule(options, "the options"),)
    found = file or settings.home / rule_parser.FILE_NAME
    if file is None and not found.exists():
        raise UsageError(
            f"there are no rules: give one by options, as --monitor eval_loss --patience 3, name a "
            f"file with --rules, or write {found}"
        )
    return rule_parser.load(found)


def _backtest(run: str, rules: Sequence[Rule], json: bool) -> None:
    from lineside.cli.run_lookup import open_history

    history = open_history()
    found = history.find(run)
    from lineside.subscribers.stopper.backtest import backtest

    triggers = backtest(history, found.id, rules)
    numbers = {attempt.attempt: attempt.number for attempt in found.attempts}
    if json:
        items = [_document(trigger, numbers) for trigger in triggers]
        print_json({"run": found.id, "step": found.step, "items": items})
        return
    began = found.started_at.timestamp()
    rows = [_row(trigger, numbers, began) for trigger in triggers]
    acted = {trigger.rule.name for trigger in triggers}
    rows += [(rule.name, "never", "", "", "", "") for rule in rules if rule.name not in acted]
    header = ("RULE", "WOULD", "ATTEMPT", "STEP", "AFTER", "WHY")
    typer.echo(table(header, rows, right=(2, 3, 4)))


def _document(trigger: Trigger, numbers: dict[str, int]) -> dict[str, Any]:
    return {
        "rule": trigger.rule.name,
        "action": trigger.action,
        "args": dict(trigger.args),
        "attempt": trigger.stream.attempt,
        "attempt_number": numbers.get(trigger.stream.attempt),
        "step": trigger.step,
        "time": trigger.time,
        "why": trigger.reason,
    }


def _row(trigger: Trigger, numbers: dict[str, int], began: float) -> tuple[str, ...]:
    from lineside.dashboard import formatting

    would = trigger.action
    if "lr" in trigger.args:
        would += f" {trigger.args['lr']:g}"
    return (
        trigger.rule.name,
        would,
        str(numbers.get(trigger.stream.attempt, "")),
        f"{trigger.step:,}",
        formatting.duration(trigger.time - began),
        trigger.reason,
    )
