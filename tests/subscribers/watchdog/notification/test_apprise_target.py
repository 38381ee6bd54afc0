"""Messages through Apprise, against real servers."""

from __future__ import annotations

import logging
import sys

import pytest

from lineside.bus.errors import MissingExtra
from lineside.subscribers.watchdog.notification.apprise_target import AppriseService
from lineside.subscribers.watchdog.notification.message import Message
from lineside.subscribers.watchdog.notification.target import DeliveryFailed
from tests.subscribers.watchdog.notification.kit import ALERT, alert, closed
from tests.subscribers.watchdog.notification.smtp_server import smtp_server, text_of
from tests.support.http_receiver import http_receiver


def test_an_e_mail_has_title_and_text() -> None:
    with smtp_server() as server:
        url = f"mailto://127.0.0.1:{server.port}/?from=lineside@example.org&to=me@example.org"
        AppriseService(url).send([Message("m1", "opened", ALERT, page="https://page.example")])
        [mail] = server.mails
    assert mail["Subject"] == "[CRITICAL] resnet 50: the training ended without reporting why"
    assert mail["To"] == "me@example.org"
    text = text_of(mail, "text/plain")
    assert "Last step: 1200 of 5000" in text
    assert "https://page.example/runs/run-1" in text
    assert "Next: lineside show run-1" in text


def test_a_mail_that_is_not_taken_has_a_reason_without_an_address() -> None:
    with smtp_server(refusals=1) as server:
        url = f"mailto://127.0.0.1:{server.port}/?from=a@example.org&to=somebody@example.org"
        with pytest.raises(DeliveryFailed, match="451, b'try later'") as caught:
            AppriseService(url).send([Message("m1", "opened", ALERT)])
    assert "somebody" not in str(caught.value)
    with pytest.raises(DeliveryFailed, match="Connection refused"):
        AppriseService(url).send([Message("m1", "opened", ALERT)])


def test_markup_in_a_runs_name_stays_text() -> None:
    with smtp_server() as server:
        url = f"mailto://127.0.0.1:{server.port}/?from=a@example.org&to=b@example.org&format=html"
        AppriseService(url).send([Message("m1", "opened", alert(run_name="<img src=x>"))])
        [mail] = server.mails
    assert "&lt;img" in text_of(mail, "text/html")


def test_a_failure_has_a_reason_and_no_secret_and_apprise_logs_nothing() -> None:
    with http_receiver(500, 500) as receiver:
        address = f"127.0.0.1:{receiver.port}/very-secret-path?retry=3"
        service = AppriseService(f"json://user:pass1234@{address}")
        with pytest.raises(DeliveryFailed) as caught:
            service.send([Message("m1", "opened", ALERT)])
        assert len(receiver.requests) == 1, "Apprise does not retry"
        assert "500" in str(caught.value)
        for secret in ("pass1234", "very-secret-path"):
            assert secret not in str(caught.value)
        assert not logging.getLogger("apprise").propagate
        with pytest.raises(DeliveryFailed):
            service.send([Message("m1", "closed", closed())])
        service.send([Message("m1", "closed", closed())])
        assert [one.json["type"] for one in receiver.requests] == ["failure", "success", "success"]


def test_the_name_of_a_run_mentions_no_channel() -> None:
    with http_receiver() as receiver:
        service = AppriseService(f"json://127.0.0.1:{receiver.port}")
        service.send([Message("m1", "opened", alert(run_name="@everyone <!here> me@host"))])
        body = receiver.taken[0].json
    for text in (body["title"], body["message"]):
        assert "@everyone" not in text
        assert "<!" not in text
        assert "me@host" in text


@pytest.mark.parametrize(
    "url",
    [
        "slack://short",
        "nonsense://x",
        "https://example.org/hook",
        "json://host,json://other",
        "include=http://host/config",
        "file:///etc/apprise.yml",
        "",
    ],
)
def test_what_is_no_single_service_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(ValueError, match="an Apprise URL") as caught:
        AppriseService(url)
    assert len(url) < 8 or url.partition("://")[2] not in str(caught.value)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(MissingExtra, match=r"lineside\[alerts\]"):
        AppriseService("json://127.0.0.1")
