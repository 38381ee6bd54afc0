"""The section ``alerts`` of a configuration file: what the watchdog does."""

from __future__ import annotations

from pydantic import Field

from lineside.cli.configuration.notification import Heartbeat, NotificationTarget, WebAddress
from lineside.cli.configuration.section import Section
from lineside.subscribers.watchdog.rules.registry import RuleOptions


class Alerts(Section):
    """The watchdog opens alerts on runs and on Lineside itself."""

    enabled: bool = Field(default=True, description="Run the watchdog, where the recorder runs.")
    interval: float = Field(
        default=5.0, ge=1, le=300, description="Seconds from one judgement to the next."
    )
    cool_down: float = Field(
        default=900.0,
        ge=0,
        description="An alert that opens again within so many seconds is the same one, and is not "
        "notified of again.",
    )
    repeat: float = Field(
        default=14_400.0,
        ge=0,
        description="Seconds between two reminders of an open critical alert; 0 sends none.",
    )
    page: WebAddress = Field(
        default="", description="Address of the dashboard, for links in notifications."
    )
    notify: list[NotificationTarget] = Field(
        default=[], description="Targets of notifications; `N` is a number from 0."
    )
    heartbeat: Heartbeat = Heartbeat()
    rules: RuleOptions = Field(default=RuleOptions(), description="Options of the rules by name.")
