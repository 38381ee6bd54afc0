"""The processes of a stack, each as the command line that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lineside.bus.module_process import module_command
from lineside.bus.settings import Settings
from lineside.cli.configuration.option import CONFIG_VARIABLE
from lineside.cli.stack.supervisor import Program

if TYPE_CHECKING:
    from lineside.cli.configuration.loading import StackConfiguration


def environment(settings: Settings) -> dict[str, str]:
    """``settings`` as environment variables for a child process."""
    return {
        "LINESIDE_HOME": str(settings.home),
        "LINESIDE_BROKER": settings.broker,
        "LINESIDE_SPOOL": str(settings.spool),
        "LINESIDE_STORE": settings.store,
        CONFIG_VARIABLE: "",
    }


def programs(
    settings: Settings, configuration: StackConfiguration, *, dashboard_port: int
) -> list[Program]:
    """The processes that ``configuration`` enables, in the order in which they start.

    Options that hold no secret are on the command line. Stopper and subscribers read the rest from
    the configuration file.
    """
    values = configuration.values
    broker, dashboard = values.broker, values.dashboard
    listen = ("--listen", broker.listen) if broker.listen else ()
    keep = ("--keep-days", f"{broker.keep_days}", "--keep-gb", f"{broker.keep_gb}")
    tokens = ("--tokens",) if dashboard.tokens else ()
    serve = ("--host", dashboard.host, "--port", f"{dashboard_port}", *tokens)
    plain, with_file = environment(settings), environment(settings)
    if configuration.path is not None:
        with_file[CONFIG_VARIABLE] = str(configuration.path)
    found = [_program("broker", *keep, *listen, env=plain)]
    if values.recorder.enabled:
        found.append(_program("recorder", env=plain))
    if dashboard.enabled:
        found.append(_program("dashboard", *serve, env=plain))
    if configuration.runs_stopper:
        found.append(_program("stopper", env=with_file))
    for name, subscriber in configuration.subscribers.items():
        argv = module_command("lineside.cli", "subscriber", name)
        env = {**with_file, **subscriber.environment}
        found.append(Program(name, argv, env, is_required=False))
    return found


def _program(command: str, *arguments: str, env: dict[str, str]) -> Program:
    return Program(command, module_command("lineside.cli", command, *arguments), env)
