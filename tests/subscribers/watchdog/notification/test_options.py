"""Targets from the options of a configuration."""

from __future__ import annotations

import pytest

from lineside.subscribers.http.secret_url import Redactor, without_secrets
from lineside.subscribers.watchdog.notification.options import (
    TargetError,
    TargetOptions,
    make_targets,
)
from lineside.subscribers.watchdog.notification.trial import try_targets
from tests.subscribers.watchdog.notification.kit import SECRET
from tests.support.http_receiver import http_receiver


def test_each_target_has_a_name_and_a_queue_of_its_own_without_a_secret() -> None:
    url = "json://127.0.0.1/secret-path"
    options = [
        TargetOptions(url=url),
        TargetOptions(url=url),
        TargetOptions(webhook="https://hooks.example.org/secret-path", secret=SECRET),
        TargetOptions(url=url, name="on call"),
    ]
    targets = make_targets(options)
    assert [one.name for one in targets] == [
        "JSON",
        "JSON 2",
        "webhook hooks.example.org",
        "on call",
    ]
    assert len({one.id for one in targets}) == 4
    assert targets[3].id == "on call"
    assert "secret-path" not in repr(targets)
    assert "secret-path" not in repr(options)
    assert [one.id for one in make_targets(options)] == [one.id for one in targets]


def test_the_fault_of_a_target_has_its_place() -> None:
    options = [TargetOptions(url="json://127.0.0.1"), TargetOptions(url="slack://x")]
    with pytest.raises(TargetError, match="Apprise URL") as caught:
        make_targets(options)
    assert caught.value.index == 1


def test_a_trial_reports_the_result_of_each_target() -> None:
    with http_receiver(500) as receiver:
        options = [TargetOptions(webhook=receiver.url, secret=SECRET, name=n) for n in ("a", "b")]
        results = list(try_targets(make_targets(options)))
        assert sorted(one.problem for one in results) == [
            "",
            "the answer was 500 Internal Server Error",
        ]
        assert [one.name for one in results] == ["a", "b"]
        assert receiver.taken[0].json["type"] == "alert.test"
    assert list(try_targets([])) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hc-ping.com/6f2c", "https://hc-ping.com/<redacted>"),
        ("https://u:p@host:8443/x?token=1", "https://host:8443/<redacted>"),
        ("https://host?token=1", "https://host<redacted>"),
        ("http://127.0.0.1:9", "http://127.0.0.1:9"),
        ("slack://T1/B2/C3", "slack://<redacted>"),
        ("no address", "<redacted>"),
    ],
)
def test_an_address_for_people_has_no_secret(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_texts_of_other_programs_lose_the_parts_of_an_address() -> None:
    redact = Redactor("slack://user%40x:p%20w@TokenA12/TokenB34/?key=Value567&to=me")
    text = "user@x p w TokenA12 at TokenB34: Value567 failed for me"
    assert (
        redact(text) == "<redacted> <redacted> <redacted> at <redacted>: <redacted> failed for me"
    )
