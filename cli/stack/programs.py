"""The processes of a stack, each as the command line that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lineside.bus.module_process import module_command
from lineside.bus.settings import Settings
from lineside.cli.configuration.option import CONFIG_VARIABLE
from lineside.cli.stack.packages import missing_sampler
from lineside.cli.stack.supervisor import Program

if TYPE_CHECKING:
    from pydantic import BaseModel

    from lineside.cli.configuration.loading import StackConfiguration

_AS_CONFIGURED: Mapping[str, int] = {}


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
    settings: Settings, configuration: StackConfiguration, ports: Mapping[str, int] = _AS_CONFIGURED
) -> list[Program]:
    """The processes that ``configuration`` enables, in the order in which they start.

    ``ports`` has the ports that were found free, by process. Options that hold no secret are on the
    command line. Stopper, watchdog, callback host, archiver, subscribers and uploads read the
    others from the configuration file.
    """
    values = configuration.values
    env = environment(settings)
    configured = dict(env)
    if configuration.path is not None:
        configured[CONFIG_VARIABLE] = str(configuration.path)
    url = configuration.archive.url
    archive = ["--archive", url] if url else []
    sections: list[tuple[str, BaseModel, bool]] = [
        ("broker", values.broker, True),
        ("recorder", values.recorder, values.recorder.enabled),
        ("dashboard", values.dashboard, values.dashboard.enabled),
        ("exporter", values.exporter, values.exporter.enabled),
        ("sampler", values.sampler, values.sampler.enabled and not missing_sampler(configuration)),
    ]
    found = [
        Program(
            name,
            module_command(
                "lineside.cli",
                name,
                *_options(section, ports.get(name)),
                *(archive if name == "dashboard" else ()),
            ),
            configured if name == "dashboard" and archive else env,  # it has options, too
            is_required=name != "sampler",  # a stack without system metrics works
        )
        for name, section, is_enabled in sections
        if is_enabled
    ]
    env = configured
    if configuration.runs_stopper:
        found.append(Program("stopper", module_command("lineside.cli", "stopper"), env))
    if values.alerts.enabled and values.recorder.enabled:
        argv = module_command("lineside.cli", "watchdog")
        has_check = bool(values.alerts.notify)
        found.append(Program("watchdog", argv, env, is_required=False, has_check=has_check))
    if values.callback_host.enabled:
        found.append(_callback_host(configuration, env))
    for name, subscriber in configuration.subscribers.items():
        argv = module_command("lineside.cli", "subscriber", name)
        # It reads the file with the settings of the stack, and then takes its own.
        own = {
            variable: value
            for variable, value in subscriber.environment.items()
            if not variable.startswith("LINESIDE_")
        }
        found.append(Program(name, argv, {**env, **own}, is_required=False, has_check=True))
    if configuration.runs_archiver:
        url = configuration.archive.url
        argv = module_command("lineside.cli", "archiver", "--archive", url)
        has_check = "://" in url  # a folder needs no packages and no options
        found.append(Program("archiver", argv, env, is_required=False, has_check=has_check))
    for name, upload in values.uploads.items():
        if upload.enabled:
            argv = module_command("lineside.cli", "uploader", name)
            has_check = upload.sink == "otlp"  # the only one that needs packages
            found.append(Program(name, argv, env, is_required=False, has_check=has_check))
    return found


def _callback_host(configuration: StackConfiguration, env: Mapping[str, str]) -> Program:
    """It runs without entries too, for runs whose trackers are taken over."""
    options = _options(configuration.values.callback_host, None)
    options += [f"--to={name}" for name in configuration.trackers]
    argv = module_command("lineside.cli", "callback-host", *options)
    has_check = bool(configuration.callbacks)
    return Program("callback-host", argv, env, is_required=False, has_check=has_check)


def _options(section: BaseModel, port: int | None) -> list[str]:
    """The values of ``section`` as options of its command."""
    values = section.model_dump(exclude={"enabled"})
    if port is not None:
        values["port"] = port
    options = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            options.append(option)
        elif value is not False and value != "":
            options += [option, str(value)]
    return options
