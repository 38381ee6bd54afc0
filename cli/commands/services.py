"""The processes of a stack, one command each: broker, recorder, dashboard, shipper, ..."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lineside.bus.errors import BusError, MissingExtra, UsageError
from lineside.bus.service import configure_logging
from lineside.bus.settings import DASHBOARD_PORT, EXPORTER_PORT, Settings
from lineside.bus.wording import plural
from lineside.cli.configuration.option import (
    CONFIG_VARIABLE,
    config_option,
    load_configuration,
)
from lineside.cli.output import table

if TYPE_CHECKING:
    from lineside.bus.callback_config import CallbackEntry
    from lineside.bus.errors import CallbackConfigError
    from lineside.cli.configuration.loading import StackConfiguration
    from lineside.subscribers.uploader.dead_letters import DeadLetters
    from lineside.subscribers.uploader.sinks.sink import Sink
    from lineside.subscribers.watchdog.notification.notifications import NotificationOptions

CHECK_SECONDS = 25.0
"""An import of a callback that takes longer is not waited for."""
HostOption = Annotated[
    str, typer.Option(help="Address to listen on; other than loopback requires tokens.")
]
ListenOption = Annotated[
    str,
    typer.Option(metavar="ADDRESS", help="Also listen at tcp://HOST:PORT for clients with a key."),
]
TrackersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="TRACKER",
        help="Send every run to this tracker as well, such as wandb; may be repeated.",
    ),
]
PortOption = Annotated[
    int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")
]
TokensOption = Annotated[
    bool, typer.Option("--tokens", help="Require tokens on loopback too, behind a proxy.")
]


def broker(
    _config: Annotated[Path | None, config_option("broker")] = None,
    keep_days: Annotated[
        float, typer.Option(min=0, help="Keep journal entries this many days.")
    ] = 7.0,
    keep_gb: Annotated[float, typer.Option(min=0, help="Keep at most this many gibibytes.")] = 10.0,
    listen: ListenOption = "",
) -> None:
    """Run the broker: receive, keep and deliver events."""
    from lineside.bus.broker.service import Broker

    configure_logging()
    Broker(
        Settings.from_env(),
        keep_days=keep_days,
        keep_bytes=int(keep_gb * (1 << 30)),
        listen=listen,
    ).serve()


def recorder() -> None:
    """Write every event into the store."""
    from lineside.subscribers.recorder.recorder import Recorder

    configure_logging()
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it lists its plugins at each start
    Recorder(Settings.from_env()).serve()


def dashboard(
    config: Annotated[Path | None, config_option("dashboard")] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = DASHBOARD_PORT,
    tokens: TokensOption = False,
    archive: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Archive of checkpoints, for downloads."),
    ] = None,
) -> None:
    """Serve the pages and the REST API."""
    from lineside.cli.checkpoints.archive_source import NamedArchive
    from lineside.dashboard.server import serve
    from lineside.emitter.spool import backlog

    configure_logging()
    settings = Settings.from_env()
    serve(
        settings,
        host=host,
        port=port,
        tokens=tokens,
        spool=partial(backlog.unconfirmed, settings.spool),
        archive=NamedArchive(archive, config).open,
    )


def exporter(
    _config: Annotated[Path | None, config_option("exporter")] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = EXPORTER_PORT,
    tokens: TokensOption = False,
    max_metrics: Annotated[
        int, typer.Option(min=0, help="Metrics of one run that have series of their own.")
    ] = 200,
    interval: Annotated[
        float, typer.Option(min=0.1, max=15, help="Seconds from one rendering to the next.")
    ] = 5.0,
) -> None:
    """Serve the metrics of every run to Prometheus, at /metrics."""
    from lineside.bus.auth.keyring import Keyring, keys_folder
    from lineside.bus.auth.listener import check_tokens, is_loopback, listen

    try:
        from lineside.subscribers.exporter.exporter import Exporter
        from lineside.subscribers.exporter.server import PageServer
    except ModuleNotFoundError as missing:
        package = missing.name or "prometheus_client"
        raise MissingExtra("the exporter", package, "server") from missing

    settings = Settings.from_env()
    keyring = Keyring(keys_folder(settings.home))
    if tokens:
        check_tokens(keyring)
    configure_logging()
    with listen(host, port, keyring, "exporter") as listener:
        is_open = is_loopback(listener) and not tokens
        server = PageServer(listener, None if is_open else keyring)
        Exporter(settings, server, max_metrics=max_metrics, render_seconds=interval).serve()


def shipper(
    drain: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="At its end, wait so long for the broker to confirm all."
        ),
    ] = 0.0,
) -> None:
    """Send events from the spool to the broker, as a service.

    A training starts a shipper by itself where none runs, and that one ends when its work is done.
    This one keeps running.
    """
    from lineside.emitter.shipper.service import Shipper, ShipperLimits

    configure_logging()
    settings = Settings.from_env()
    limits = ShipperLimits(idle_timeout=math.inf, broker_timeout=math.inf, drain=drain)
    Shipper(settings.spool, settings.broker, limits).serve()


def sampler(
    _config: Annotated[Path | None, config_option("sampler")] = None,
    interval: Annotated[float, typer.Option(min=1, help="Seconds between two samples.")] = 10.0,
) -> None:
    """Publish how this machine and its GPUs are used, as a service.

    `lineside run` starts a sampler by itself, and with LINESIDE_SAMPLER=1 every training does; that
    one ends with the last training. This one keeps running, and samples for every training that
    uses the same spool on this machine. Needs the extra `system`.
    """
    from lineside.emitter.sampler.starter import missing_package

    if missing_package() is not None:
        raise MissingExtra("the sampler", "psutil", "system")
    from lineside.emitter.sampler.service import Sampler

    configure_logging()
    Sampler(Settings.from_env().spool, interval=interval, idle_timeout=math.inf).serve()


def callback_host(
    config: Annotated[Path | None, config_option("callback_host")] = None,
    max_processes: Annotated[
        int, typer.Option(min=1, help="Callbacks that run at once, each a process.")
    ] = 64,
    to: TrackersOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only check the entries of the configuration file.")
    ] = False,
) -> None:
    """Run callbacks of transformers outside of training, each in a process of its own.

    They are `custom_callbacks` of the configuration file, and for a run of
    `lineside run --take-over` its trackers.
    """
    configuration = load_configuration(config).with_trackers(to or ())
    if check:
        check_callbacks(configuration)
        return
    from lineside.subscribers.callback_host.manager import CallbackHost

    configure_logging()
    CallbackHost(Settings.from_env(), configuration.callbacks, max_processes=max_processes).serve()


def watchdog(
    config: Annotated[Path | None, config_option()] = None,
    test_notification: Annotated[
        bool,
        typer.Option(
            "--test-notification", help="Send a test message to each target, and print the results."
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only check the targets of notifications.")
    ] = False,
) -> None:
    """Open alerts on runs and on Lineside itself, and send notifications of them.

    Rules and targets are those of the configuration file. Without a file every rule applies with
    its defaults, and no notification is sent.
    """
    from lineside.emitter.spool import backlog

    settings, configuration = Settings.from_env(), load_configuration(config)
    from lineside.cli.configuration.targets import notification_options
    from lineside.subscribers.watchdog.engine import Timing
    from lineside.subscribers.watchdog.notification.notifications import Notifications
    from lineside.subscribers.watchdog.rules.registry import enabled_rules
    from lineside.subscribers.watchdog.watchdog import Watchdog, WatchdogOptions

    alerts, notifications = configuration.values.alerts, notification_options(configuration)
    if check:
        return
    if test_notification:
        _test_targets(notifications)
        return
    options = WatchdogOptions(
        alerts.interval, Timing(alerts.cool_down, alerts.repeat), enabled_rules(alerts.rules)
    )
    configure_logging()
    Watchdog(
        settings,
        options,
        spool=partial(backlog.unconfirmed, settings.spool),
        notifications=lambda state: Notifications(state, notifications),
    ).serve()


def uploader(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="An upload of the configuration file.")
    ],
    config: Annotated[Path | None, config_option()] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the upload.")] = False,
    resend: Annotated[
        bool,
        typer.Option("--resend", help="Send the batches that were refused once more, and end."),
    ] = False,
) -> None:
    """Send the metrics of runs to the receiver of an upload.

    Points wait for a receiver that is down. Batches that it refuses are put aside.
    """
    settings, configuration = Settings.from_env(), load_configuration(config)
    from lineside.cli.configuration.upload import find
    from lineside.subscribers.context import RunFilter
    from lineside.subscribers.service import SubscriberService
    from lineside.subscribers.uploader.dead_letters import DeadLetters
    from lineside.subscribers.uploader.uploader import Uploader

    upload, sink = find(configuration, name)
    if check:
        return
    dead_letters, options = DeadLetters(settings.home, name), upload.collect_options
    if resend:
        _resend(dead_letters, sink)
        return
    configure_logging()
    SubscriberService(
        settings,
        Uploader,
        lambda: Uploader(sink, options, dead_letters),
        name=name,
        run_filter=RunFilter(upload.runs, upload.projects),
        begin=upload.begin,
    ).serve()


def _resend(dead_letters: DeadLetters, sink: Sink) -> None:
    from lineside.subscribers.uploader.sinks.sink import Unavailable

    refused = 0
    try:
        for path, problem in dead_letters.resend(sink):
            refused += bool(problem)
            typer.echo(f"{path.name}: {f'refused: {problem}' if problem else 'sent'}")
    except Unavailable as error:
        raise BusError(f"the receiver does not take batches now: {error}") from None
    left = len(dead_letters.files())
    typer.echo(f"{plural(left, 'batch')} left in {dead_letters.folder}")
    if refused:
        raise typer.Exit(1)


def check_callbacks(configuration: StackConfiguration) -> None:
    """Import the classes of ``custom_callbacks`` and check their arguments, each in a process.

    Raises:
        UsageError: one cannot be used.
    """
    from lineside.bus.callbacks.callback_check import check_entries
    from lineside.bus.yaml_document import DocumentError
    from lineside.cli.configuration.callbacks import entry_problem

    faults = check_entries(configuration.callbacks, CHECK_SECONDS)
    faults += [one for entry in configuration.callbacks for one in _missing_packages(entry)]
    if not faults:
        return
    if configuration.document is None:
        raise faults[0]
    raise DocumentError(entry_problem(configuration.document, one) for one in faults)


def _missing_packages(entry: CallbackEntry) -> Iterator[CallbackConfigError]:
    """The fault of a tracker whose packages are not installed in this environment."""
    from lineside.subscribers.callback_host.trackers.registry import missing_packages

    if entry.python:
        return  # another interpreter: its process reports that
    if missing := missing_packages(entry.class_path):
        yield entry.error(
            f"{', '.join(missing)} is not installed for {sys.executable}; "
            "install it there, or name another interpreter as `python:` of the entry"
        )


def _test_targets(options: NotificationOptions) -> None:
    from lineside.subscribers.watchdog.notification.trial import try_targets

    if not options.targets:
        raise UsageError(
            "there is no target of notifications: expected alerts.notify in the configuration file "
            f"that --config or {CONFIG_VARIABLE} names"
        )
    results = list(try_targets(options.targets, options.page))
    rows = [(one.name, f"not taken: {one.problem}" if one.problem else "taken") for one in results]
    typer.echo(table(("target", "result"), rows))
    if any(one.problem for one in results):
        raise typer.Exit(1)
