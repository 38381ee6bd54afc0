"""Notifications and heartbeat in ``lineside.yaml``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside.bus.errors import UsageError
from lineside.bus.yaml_document import DocumentError
from lineside.cli.configuration.display import effective
from lineside.cli.configuration.loading import StackConfiguration, load
from lineside.cli.configuration.targets import notification_options

SIGNING_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of a public test
HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "notifications.md"
Write = Callable[[str], StackConfiguration]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a configuration file and loads it."""
    monkeypatch.setenv("MAIL_URL", "mailto://me:tiny-pw@mail.example.org")
    monkeypatch.setenv("SIGNING", SIGNING_SECRET)

    def load_text(text: str) -> StackConfiguration:
        (tmp_path / "lineside.yaml").write_text(text)
        return load(tmp_path / "lineside.yaml", tmp_path / "home")

    return load_text


COMPLETE = """
alerts:
  page: https://lineside.example.org
  notify:
    - url: ${MAIL_URL}
      severity: critical
      rules: [lost, failed]
    - name: pager
      webhook: {url: https://hooks.example.org/path-of-it, secret: "${SIGNING}"}
      projects: [vision*]
  heartbeat: {url: https://hc-ping.com/6f2c, interval: 30}
"""


def test_targets_are_made_from_the_file(write: Write) -> None:
    found = write(COMPLETE)
    options = notification_options(found)
    mail, pager = options.targets
    assert (mail.name, mail.filter.severity, mail.filter.rules) == (
        "E-Mail",
        "critical",
        ["lost", "failed"],
    )
    assert (pager.id, pager.name, pager.filter.projects) == ("pager", "pager", ["vision*"])
    assert (options.page, options.heartbeat_interval) == ("https://lineside.example.org", 30)


def test_no_secret_is_shown(write: Write) -> None:
    shown = json.dumps(effective(write(COMPLETE))["alerts"])
    for secret in ("tiny-pw", "path-of-it", SIGNING_SECRET, "6f2c"):
        assert secret not in shown
    for kept in ("mailto://", "https://hooks.example.org/", "https://hc-ping.com/", "vision*"):
        assert kept in shown


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("notify: [{}]", "alerts.notify[0]: an empty mapping is invalid; expected either url or"),
        (
            "notify: [{url: 'json://a', webhook: {url: 'http://b', secret: '${SIGNING}'}}]",
            "alerts.notify[0]: a mapping of url, webhook is invalid; expected either url or",
        ),
        ("notify: [{url: token}]", "expected an Apprise URL, such as mailto://"),
        (
            "notify: [{webhook: {url: 'ftp://u:secret-pw@h', secret: '${SIGNING}'}}]",
            "alerts.notify[0].webhook.url: 'ftp://<redacted>' is invalid; expected an address that",
        ),
        (
            "notify: [{webhook: {url: 'http://h', secret: secret-pw}}]",
            "alerts.notify[0].webhook.secret: '<redacted>' is invalid; expected whsec_ and the",
        ),
        ("notify: [{webhook: {url: 'http://h'}}]", "webhook.secret: is missing; expected"),
        (
            "notify: [{webhok: {url: 'http://h'}}]",
            "alerts.notify[0].webhok: unknown key; did you mean webhook?",
        ),
        (
            "notify: [{webhook: {uri: 'http://h', secret: '${SIGNING}'}}]",
            "alerts.notify[0].webhook.uri: unknown key; did you mean url?",
        ),
        ("heartbeat: {url: hc-ping.com/secret-pw}", "alerts.heartbeat.url: "),
        ("heartbeat: {interval: 1}", "expected a finite number of at least 5"),
        ("notify: [{url: 'json://a', severity: bad}]", "expected one of critical, warning, info"),
    ],
)
def test_a_fault_has_its_place_and_no_secret(write: Write, text: str, fault: str) -> None:
    with pytest.raises(DocumentError) as caught:
        write(f"alerts: {{{text}}}")
    assert fault in str(caught.value)
    assert "secret-pw" not in str(caught.value)


def test_an_apprise_url_that_cannot_be_used_is_a_fault_of_its_line(write: Write) -> None:
    found = write("alerts:\n  notify:\n    - url: json://127.0.0.1\n    - url: slack://abcdefgh\n")
    with pytest.raises(UsageError) as caught:
        notification_options(found)
    sentence = str(caught.value)
    assert "line 4: alerts.notify[1].url: 'slack://<redacted>' is invalid; expected an" in sentence
    assert "abcdefgh" not in sentence


def test_a_rule_that_does_not_exist_is_a_fault(write: Write) -> None:
    found = write("alerts:\n  notify:\n    - {url: 'json://127.0.0.1', rules: [l*, stale]}\n")
    with pytest.raises(DocumentError, match=r"rules\[1\]: 'stale' is invalid; .* mean stalled\?"):
        notification_options(found)


def test_the_example_is_valid(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "MAIL_USER": "me",
        "MAIL_PASSWORD": "p%40ss",
        "SLACK_WEBHOOK": "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrId",
        "PAGER_SECRET": SIGNING_SECRET,
        "HEARTBEAT_URL": "https://hc-ping.com/6f2c",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    [example] = re.findall(r"^```yaml\n(.*?)^```", HOW_TO.read_text(), re.S | re.M)
    options = notification_options(write(example))
    assert [one.name for one in options.targets] == ["E-Mail", "Slack", "pager"]
