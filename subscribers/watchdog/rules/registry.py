"""Every rule of the watchdog by its name, and the options of all in one model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from lineside.subscribers.watchdog.rules.archive import ArchiveStopped
from lineside.subscribers.watchdog.rules.checkpoints import CheckpointOverdue
from lineside.subscribers.watchdog.rules.disks import DiskFilling
from lineside.subscribers.watchdog.rules.gpu import GpuIdle
from lineside.subscribers.watchdog.rules.lineside import (
    BrokerUnreachable,
    RecorderLagging,
    SpoolLagging,
    StoreUnreadable,
    SubscriberErrors,
    SubscriberLagging,
)
from lineside.subscribers.watchdog.rules.loss import Divergence, LossSpike, NotFinite
from lineside.subscribers.watchdog.rules.notifications import NotificationFailing
from lineside.subscribers.watchdog.rules.rule import Rule
from lineside.subscribers.watchdog.rules.speed import DataLoaderBound, ThroughputFell
from lineside.subscribers.watchdog.rules.status import Disconnected, Failed, Lost, Stalled


class RuleOptions(BaseModel):
    """Options of the rules of alerts, by their names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    lost: Lost = Lost()
    failed: Failed = Failed()
    stalled: Stalled = Stalled()
    disconnected: Disconnected = Disconnected()
    nan: NotFinite = NotFinite()
    divergence: Divergence = Divergence()
    loss_spike: LossSpike = LossSpike()
    throughput_fell: ThroughputFell = ThroughputFell()
    data_loader_bound: DataLoaderBound = DataLoaderBound()
    gpu_idle: GpuIdle = GpuIdle()
    checkpoint_overdue: CheckpointOverdue = CheckpointOverdue()
    archive_stopped: ArchiveStopped = ArchiveStopped()
    disk_filling: DiskFilling = DiskFilling()
    broker_unreachable: BrokerUnreachable = BrokerUnreachable()
    store_unreadable: StoreUnreadable = StoreUnreadable()
    recorder_lagging: RecorderLagging = RecorderLagging()
    spool_lagging: SpoolLagging = SpoolLagging()
    subscriber_lagging: SubscriberLagging = SubscriberLagging()
    subscriber_errors: SubscriberErrors = SubscriberErrors()
    notification_failing: NotificationFailing = NotificationFailing()


RULES: tuple[Rule, ...] = tuple(getattr(RuleOptions(), name) for name in RuleOptions.model_fields)
"""Every rule with its default options."""


def enabled_rules(options: RuleOptions) -> tuple[Rule, ...]:
    """The rules of ``options`` that are enabled."""
    found = (getattr(options, rule.name) for rule in RULES)
    return tuple(rule for rule in found if rule.enabled)
