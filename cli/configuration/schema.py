"""The keys of a configuration file. Each default is that of the command's own option."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from lineside.bus.auth.roles import is_reserved_producer
from lineside.bus.errors import AddressError
from lineside.bus.protocol.addresses import check_tcp_address
from lineside.bus.protocol.events import is_run_id
from lineside.bus.service import SUPERVISOR_PID
from lineside.bus.settings import DASHBOARD_PORT, EXPORTER_PORT
from lineside.cli.configuration import callbacks
from lineside.cli.configuration.alerts import Alerts
from lineside.cli.configuration.archive import Archive
from lineside.cli.configuration.option import CONFIG_VARIABLE
from lineside.cli.configuration.section import Section
from lineside.cli.configuration.upload import Upload
from lineside.subscribers.stopper import rule_parser

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN_VARIABLES = (CONFIG_VARIABLE, "LINESIDE_LAUNCH", SUPERVISOR_PID)
_CLASS = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")
_PROCESSES = frozenset(
    {
        "up",
        "demo",
        "callback-host",
        "exporter",
        "sampler",
        "uploader",
        "archiver",
        "evaluator",
        "watchdog",
    }
)


def _listen(value: str) -> str:
    try:
        return check_tcp_address(value, to_listen=True) if value else ""
    except AddressError:
        raise ValueError("tcp://HOST:PORT, such as tcp://0.0.0.0:7430") from None


def _class(value: str) -> str:
    if not _CLASS.fullmatch(value):
        raise ValueError("MODULE:CLASS, such as my_module:Slack")
    return value


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name) or name in _OWN_VARIABLES:
        raise ValueError(f"the name of a variable, and none of {', '.join(_OWN_VARIABLES)}")
    return name


def _process(name: str) -> str:
    if not is_run_id(name) or is_reserved_producer(name) or name in _PROCESSES:
        raise ValueError(
            "1 to 128 of A-Z a-z 0-9 . _ - not beginning with . or -, and no name of a rank or a "
            "process of Lineside"
        )
    return name


class Broker(Section):
    """The broker receives, keeps and delivers events."""

    listen: Annotated[str, AfterValidator(_listen)] = Field(
        default="",
        description="Also listen at `tcp://HOST:PORT` for clients with a key.",
        json_schema_extra={"examples": ["tcp://0.0.0.0:7430"]},
    )
    keep_days: float = Field(default=7.0, ge=0, description="Keep journal entries this many days.")
    keep_gb: float = Field(default=10.0, ge=0, description="Keep at most this many gibibytes.")


class Recorder(Section):
    """The recorder writes events into the store."""

    enabled: bool = Field(
        default=True, description="Run the recorder. A page needs a store that one writes."
    )


class Dashboard(Section):
    """The dashboard serves the pages and the REST API."""

    enabled: bool = Field(default=True, description="Run the dashboard.")
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; other than loopback requires tokens.",
    )
    port: int = Field(
        default=DASHBOARD_PORT, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    tokens: bool = Field(
        default=False, description="Require tokens on loopback too, behind a proxy."
    )


class Exporter(Section):
    """The exporter serves the metrics of every run to Prometheus."""

    enabled: bool = Field(default=False, description="Run the exporter.")
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; other than loopback requires tokens.",
    )
    port: int = Field(
        default=EXPORTER_PORT, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    tokens: bool = Field(
        default=False, description="Require tokens on loopback too, behind a proxy."
    )
    max_metrics: int = Field(
        default=200, ge=0, description="Metrics of one run that have series of their own."
    )
    interval: float = Field(
        default=5.0, ge=0.1, le=15, description="Seconds from one rendering to the next."
    )


class Sampler(Section):
    """The sampler publishes how this machine and its GPUs are used."""

    enabled: bool = Field(
        default=True,
        description="Run the sampler; by default only where the extra `system` is installed.",
    )
    interval: float = Field(default=10.0, ge=1, description="Seconds between two samples.")


class Stopper(Section):
    """The stopper acts on runs by rules. It runs if there are rules."""

    enabled: bool = Field(default=True, description="Run the stopper if there are rules.")
    dry_run: bool = Field(default=False, description="Only report what would be done.")
    rules: Annotated[
        Any,
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "array", "minItems": 1, "items": rule_parser.json_schema()},
                    {"type": "string", "minLength": 1},
                    {"type": "null"},
                ]
            }
        ),
    ] = Field(
        default=None,
        description="A list of rules, or the path of a file of rules, instead of the home's.",
    )


class Subscriber(Section):
    """A subscriber that you wrote, as a process of its own."""

    enabled: bool = Field(default=True, description="Run this subscriber.")
    target: Annotated[str, AfterValidator(_class)] = Field(
        alias="class", description="`MODULE:CLASS` of a class made from `Subscriber`."
    )
    options: dict[str, Any] = Field(
        default={}, description="Arguments of the class, read as its annotations ask for."
    )
    folder: Path = Field(
        default=Path(),
        description="Folder that the process works in; the module is looked for there first.",
    )
    environment: dict[Annotated[str, AfterValidator(_variable)], str] = Field(
        default={}, description="Variables of the environment for this process."
    )
    runs: list[str] = Field(
        default=[], description="Only runs with such an id or name; `*` fits any text."
    )
    projects: list[str] = Field(
        default=[], description="Only runs of such a project; `*` fits any text."
    )
    on_error: Literal["retry", "skip", "stop"] | None = Field(
        default=None, description="`retry`, `skip` or `stop`, instead of the class's own."
    )
    begin: Literal["start", "live"] = Field(
        default="start",
        alias="from",
        description="Where a name that is new begins in the journal: `start` or `live`.",
    )


class CallbackHost(Section):
    """The callback host runs `custom_callbacks`, and the trackers of `lineside run --take-over`."""

    enabled: bool = Field(default=True, description="Run the callback host.")
    max_processes: int = Field(
        default=64,
        ge=1,
        description="Callbacks that run at once, each a process; the others wait.",
    )


class Configuration(Section):
    """Configuration of `lineside up`: which processes run, with their options."""

    broker: Broker = Broker()
    recorder: Recorder = Recorder()
    dashboard: Dashboard = Dashboard()
    exporter: Exporter = Exporter()
    sampler: Sampler = Sampler()
    stopper: Stopper = Stopper()
    alerts: Alerts = Alerts()
    callback_host: CallbackHost = CallbackHost()
    custom_callbacks: Annotated[list[Any], WithJsonSchema(callbacks.SCHEMA)] = Field(
        default=[],
        description="Callbacks for every run; an entry is a text, its `name`, or has these keys.",
    )
    subscribers: dict[Annotated[str, AfterValidator(_process)], Subscriber] = Field(
        default={},
        description="Your subscribers. The name is that of the process and of its cursor.",
    )
    uploads: dict[Annotated[str, AfterValidator(_process)], Upload] = Field(
        default={},
        description="Uploads of metrics. The name is that of the process and of its cursor.",
    )
    archive: Archive = Archive()
