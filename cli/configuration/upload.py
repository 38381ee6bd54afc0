"""The keys of an upload of metrics in a configuration file, and what the uploader makes of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from lineside.bus.errors import MissingExtra, UsageError
from lineside.bus.yaml_document import DocumentError, Key
from lineside.cli.configuration.notification import web_address
from lineside.cli.configuration.option import CONFIG_VARIABLE
from lineside.cli.configuration.section import Section
from lineside.emitter.redaction.text import REDACTED
from lineside.subscribers.http.secret_url import without_secrets
from lineside.subscribers.uploader.options import (
    MAX_BATCH,
    CollectOptions,
    ReceiverOptions,
    SinkName,
)

if TYPE_CHECKING:
    from lineside.cli.configuration.loading import StackConfiguration
    from lineside.subscribers.uploader.sinks.sink import Sink

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = ("content-type", "content-encoding", "content-length", "host")


def _header(name: str) -> str:
    if not _HEADER.fullmatch(name) or name.lower() in _OWN_HEADERS:
        raise ValueError(f"the name of a header, and none of {', '.join(_OWN_HEADERS)}")
    return name


def _header_value(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError("printable ASCII characters")
    return value


HeaderValue = Annotated[str, AfterValidator(_header_value)]


class Upload(Section):
    """Sends the metrics of runs to a receiver elsewhere."""

    enabled: bool = Field(default=True, description="Run this upload.")
    sink: SinkName = Field(
        default="http",
        description="What the receiver takes: `http` (JSON), `influxdb` (line protocol), `otlp` "
        "(OTLP over HTTP) or `remote-write` (Prometheus).",
    )
    url: Annotated[str, Field(min_length=1), AfterValidator(web_address)] = Field(
        description="The address that batches are POSTed to."
    )
    key: HeaderValue = Field(
        default="", description="The key, sent as `Authorization`; keep it in a variable."
    )
    headers: dict[Annotated[str, AfterValidator(_header)], HeaderValue] = Field(
        default={}, description="Headers of each request."
    )
    interval: float = Field(
        default=10.0, ge=0, description="Seconds from one sending of a run's points to the next."
    )
    steps: int = Field(
        default=0, ge=0, description="Steps from one sending to the next, instead of seconds."
    )
    frequency: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Part of a run from one sending to the next: `0.1` is every 10 %.",
    )
    batch: int = Field(
        default=500, ge=1, le=MAX_BATCH, description="Points that one request has at most."
    )
    gzip: bool = Field(default=True, description="Compress requests.")
    connect_timeout: float = Field(
        default=10.0, gt=0, le=600, description="Seconds until the receiver has to be connected."
    )
    timeout: float = Field(
        default=60.0, gt=0, le=600, description="Seconds until a request has to be answered."
    )
    log_key_prefix: str = Field(default="", description="What precedes the name of each metric.")
    metrics: list[str] = Field(
        default=[], description="Only metrics of these names; `*` fits any text."
    )
    exclude: list[str] = Field(
        default=[], description="No metrics of these names; `*` fits any text."
    )
    producers: list[str] = Field(
        default=["rank0"],
        min_length=1,
        description="Metrics of these producers: `rank0` is the training, `*` is all.",
    )
    runs: list[str] = Field(
        default=[], description="Only runs with such an id or name; `*` fits any text."
    )
    projects: list[str] = Field(
        default=[], description="Only runs of such a project; `*` fits any text."
    )
    begin: Literal["start", "live"] = Field(
        default="start",
        alias="from",
        description="Where a name that is new begins in the journal: `start` or `live`.",
    )

    @model_validator(mode="after")
    def _check_interval(self) -> Upload:
        if self.steps and self.frequency:
            raise ValueError("either steps or frequency")
        return self

    @property
    def receiver_options(self) -> ReceiverOptions:
        names = ("sink", "url", "key", "headers", "gzip", "connect_timeout", "timeout")
        return ReceiverOptions(**{name: getattr(self, name) for name in names})

    @property
    def collect_options(self) -> CollectOptions:
        names = (
            *("interval", "steps", "frequency", "batch"),
            *("log_key_prefix", "metrics", "exclude", "producers"),
        )
        return CollectOptions(**{name: getattr(self, name) for name in names})


def find(configuration: StackConfiguration, name: str) -> tuple[Upload, Sink]:
    """The upload ``name`` and its sink.

    Raises:
        UsageError: the file has no such upload.
        DocumentError: the packages of its sink are not installed.
    """
    from lineside.subscribers.uploader.sinks.registry import make_sink

    uploads, document = configuration.values.uploads, configuration.document
    if document is None or name not in uploads:
        raise UsageError(
            f"{name!r} is no upload: expected the name of one in the section `uploads` of the "
            "configuration file"
            + (
                f", which has {', '.join(uploads) or 'none'}"
                if document
                else f"; name the file by --config or {CONFIG_VARIABLE}"
            )
        )
    try:
        return uploads[name], make_sink(uploads[name].receiver_options)
    except MissingExtra as error:
        raise DocumentError([document.problem(("uploads", name, "sink"), str(error))]) from None


def is_secret(key: Key) -> bool:
    """Whether ``key`` of a configuration file is the key or a header of an upload."""
    return key[:1] == ("uploads",) and key[2:3] in (("key",), ("headers",))


def redacted(uploads: dict[str, Any]) -> dict[str, Any]:
    """``uploads``, the section as JSON, for people: no key, no header, of an address the host."""
    return {
        name: {
            **one,
            "url": without_secrets(one["url"]),
            "key": one["key"] and REDACTED,
            "headers": dict.fromkeys(one["headers"], REDACTED),
        }
        for name, one in uploads.items()
    }
