"""``lineside config``: checks a configuration file and shows it, with secrets redacted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lineside.bus.errors import UsageError
from lineside.bus.settings import Settings
from lineside.bus.wording import plural
from lineside.bus.yaml_document import DocumentError
from lineside.cli.configuration.option import CONFIG_VARIABLE, load_configuration
from lineside.cli.output import JsonOption, print_json

if TYPE_CHECKING:
    from lineside.cli.configuration.loading import StackConfiguration

Action = Literal["check", "show", "schema"]


def config(
    action: Annotated[Action, typer.Argument(help="The action.")],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", envvar=CONFIG_VARIABLE, help="The file.", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check a configuration file of `lineside up`, show it, or print its JSON Schema.

    `check` also imports the subscribers of the file. `show` prints every value, defaults included,
    with variables replaced and secrets redacted. `schema` needs no file.
    """
    if action == "schema":
        from lineside.cli.configuration.json_schema import published

        print_json(published())
        return
    if file is None:
        raise UsageError(
            f"config {action}: FILE is missing; expected a configuration file, or its path in "
            f"{CONFIG_VARIABLE}"
        )
    if action == "show":
        _show(load_configuration(file), as_json=json)
    else:
        _check(file, as_json=json)


def _check(file: Path, *, as_json: bool) -> None:
    from lineside.cli.stack.packages import check_packages
    from lineside.cli.stack.programs import programs
    from lineside.cli.stack.subscriber_check import check_subscribers

    try:
        configuration = load_configuration(file)
        check_packages(configuration)
        found = programs(Settings.from_env(), configuration)
        check_subscribers(found)
    except UsageError as error:
        if not as_json:
            raise
        print_json({"ok": False, "problems": list(_faults(error))})
        raise typer.Exit(UsageError.exit_code) from None
    if as_json:
        print_json({"ok": True, "problems": []})
        return
    names = [
        f"{one.name} ({plural(len(configuration.rules), 'rule')})"
        if one.name == "stopper"
        else one.name
        for one in found
    ]
    typer.echo(f"{file} is valid: `lineside up` runs {', '.join(names)}")


def _faults(error: UsageError) -> Iterator[dict[str, Any]]:
    """Each fault with its message; with its place too, unless another process found it."""
    if isinstance(error, DocumentError):
        for problem in error.problems:
            yield {**vars(problem), "message": str(problem)}
    else:
        for line in str(error).splitlines():
            yield {"message": line}


def _show(configuration: StackConfiguration, *, as_json: bool) -> None:
    import yaml

    from lineside.cli.configuration.display import effective

    values = effective(configuration)
    if as_json:
        print_json(values)
    else:
        typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip())
