"""Sends messages through Apprise: e-mail, Slack and some hundred other services.

Apprise does no retries here, and loads neither configuration nor plugins from files. Its log, which
may name an address, goes nowhere: the reasons of a failure come with its result, and are redacted.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lineside.bus.errors import MissingExtra
from lineside.bus.terminal_text import printable
from lineside.subscribers.http.secret_url import Redactor
from lineside.subscribers.watchdog.notification.digest import Digest, highest_severity
from lineside.subscribers.watchdog.notification.message import Message
from lineside.subscribers.watchdog.notification.target import DeliveryFailed

if TYPE_CHECKING:
    from apprise import NotifyBase

SERVICE_SECONDS = 60.0
"""How long a service may take for one message."""
_REASON_CHARACTERS = 300
_MAIL_REASON = "Socket Exception: "
# A run's name must not call everybody of a channel.
_MENTION = re.compile(r"@(?=everyone|here|channel)|<(?=[@!#])")


class AppriseService:
    """The service of an Apprise ``url``.

    Raises:
        MissingExtra: the extra ``alerts`` is not installed.
        ValueError: ``url`` is no Apprise URL, or lacks a part.
    """

    max_messages = 50

    def __init__(self, url: str) -> None:
        apprise = _import_apprise()
        asset = apprise.AppriseAsset(
            app_id="Lineside",
            app_desc="Lineside",
            image_url_mask="",  # pictures of another site
            image_url_logo="",
            storage_mode="memory",
            service_timeout=SERVICE_SECONDS,
            allow_templates=False,
            secure_logging=True,
        )
        self._redact = Redactor(url)
        with apprise.LogCapture(level=logging.WARNING, name="apprise") as captured:
            service: NotifyBase | None = apprise.Apprise.instantiate(url, asset=asset)
            reasons = captured.getvalue().splitlines()
        if service is None:
            reason = self._redact(reasons[-1].rpartition(" - ")[2]) if reasons else ""
            raise ValueError(
                f"an Apprise URL with all its parts, such as slack://... ({reason or 'refused'})"
            )
        self.name = str(service.service_name)
        self._is_mail = url.startswith("mailto")
        service.retry = 0  # the outbox does it
        if "overflow=" not in url:
            service.overflow_mode = apprise.OverflowMode.TRUNCATE
        self._manager = apprise.Apprise(asset=asset)
        self._manager.add(service)
        self._apprise = apprise

    def send(self, messages: Sequence[Message]) -> None:
        text = messages[0] if len(messages) == 1 else Digest(messages)
        types = self._apprise.NotifyType
        levels = {"critical": types.FAILURE, "warning": types.WARNING, "info": types.INFO}
        severity = highest_severity(messages)
        end = types.SUCCESS if all(one.is_resolved for one in messages) else types.INFO
        result = self._manager.notify(
            body=_MENTION.sub("\\g<0>\N{ZERO WIDTH SPACE}", text.text),
            title=_MENTION.sub("\\g<0>\N{ZERO WIDTH SPACE}", text.title),
            notify_type=levels[severity] if severity else end,
            body_format=self._apprise.NotifyFormat.TEXT,
            interpret_escapes=False,
            log_level=logging.DEBUG,
        )
        if not result:
            raise DeliveryFailed(self._reason(result))

    def _reason(self, result: Any) -> str:
        messages = [
            self._redact(entry.message)
            for entry in result.logs()
            if entry.level not in ("DEBUG", "INFO", "TRACE") or self._is_reason(entry.message)
        ]
        reason = "; ".join(dict.fromkeys(messages)) or f"Apprise reports {result.status.name}"
        return printable(reason[:_REASON_CHARACTERS])

    def _is_reason(self, message: str) -> bool:
        """Whether a line of Apprise's debug log is the answer of a mail server."""
        return self._is_mail and message.startswith(_MAIL_REASON)


def _import_apprise() -> Any:
    logger = logging.getLogger("apprise")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)  # the answers of mail servers are there
    try:
        import apprise
    except ModuleNotFoundError as error:
        raise MissingExtra("an Apprise URL", error.name or "apprise", "alerts") from None
    return apprise
