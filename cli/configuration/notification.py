"""The keys of notifications and heartbeat in a configuration file."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from lineside.cli.configuration.section import Section
from lineside.subscribers.http.secret_url import REDACTED, without_secrets
from lineside.subscribers.watchdog.notification.signing import key_of


def web_address(value: str) -> str:
    """``value`` if it is an address to send to, or empty."""
    try:
        parts = urlsplit(value)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_address = False
    is_plain = value.isascii() and value.isprintable() and " " not in value
    if value and not (is_address and is_plain):
        raise ValueError("an address that begins with https:// or http://, without spaces")
    return value


def _apprise_url(value: str) -> str:
    if value and not value.partition("://")[1]:
        raise ValueError("an Apprise URL, such as mailto://... or slack://...")
    return value


def _secret(value: str) -> str:
    key_of(value)
    return value


WebAddress = Annotated[str, AfterValidator(web_address)]


class Webhook(Section):
    """A receiver of signed JSON."""

    url: Annotated[WebAddress, Field(min_length=1)] = Field(
        description="The address that messages are POSTed to."
    )
    secret: Annotated[str, AfterValidator(_secret)] = Field(
        description="`whsec_` and the base64 of 24 to 64 random bytes, which signs each message."
    )


class NotificationTarget(Section):
    """Who is notified of alerts: `url` or `webhook`."""

    url: Annotated[str, AfterValidator(_apprise_url)] = Field(
        default="", description="An Apprise URL, such as `mailto://...` or `slack://...`."
    )
    webhook: Webhook | None = Field(default=None, description="A receiver of signed JSON.")
    name: str = Field(
        default="",
        description="Name in the log; what waits for the target stays if its address changes.",
    )
    severity: Literal["critical", "warning", "info"] = Field(
        default="info", description="Only alerts of this severity or a higher one."
    )
    rules: list[str] = Field(
        default=[], description="Only alerts of these rules; `*` fits any text."
    )
    runs: list[str] = Field(
        default=[], description="Only alerts of runs with such an id or name; `*` fits any text."
    )
    projects: list[str] = Field(
        default=[], description="Only alerts of runs of such a project; `*` fits any text."
    )

    @model_validator(mode="after")
    def _check_kind(self) -> NotificationTarget:
        if bool(self.url) == bool(self.webhook):
            raise ValueError("either url or webhook")
        return self


class Heartbeat(Section):
    """A request at intervals: a monitor elsewhere reports its absence."""

    url: WebAddress = Field(
        default="", description="Address to GET while the watchdog can judge all runs."
    )
    interval: float = Field(default=60.0, ge=5, description="Seconds between two requests.")


def redacted(alerts: dict[str, Any]) -> dict[str, Any]:
    """``alerts``, the section as JSON, for people: of an address the host at most."""
    heartbeat = {**alerts["heartbeat"], "url": _redacted_address(alerts["heartbeat"]["url"])}
    return {
        **alerts,
        "notify": list(map(_redacted_target, alerts["notify"])),
        "heartbeat": heartbeat,
    }


def _redacted_target(target: dict[str, Any]) -> dict[str, Any]:
    webhook = target["webhook"]
    if webhook:
        webhook = {"url": _redacted_address(webhook["url"]), "secret": REDACTED}
    return {**target, "url": _redacted_address(target["url"]), "webhook": webhook}


def _redacted_address(url: str) -> str:
    return without_secrets(url) if url else ""
