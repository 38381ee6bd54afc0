"""``lineside.yaml``: what it configures, and the exact sentence on each fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineside.bus.errors import UsageError
from lineside.bus.yaml_document import DocumentError
from lineside.cli.commands.services import check_callbacks
from lineside.cli.configuration import json_schema
from lineside.cli.configuration.callbacks import load_training_callbacks
from lineside.cli.configuration.display import effective
from lineside.cli.configuration.loading import StackConfiguration, load
from lineside.cli.configuration.schema import Configuration
from lineside.emitter.redaction.text import REDACTED
from lineside.subscribers.callback_host.trackers import registry

ROOT = Path(__file__).parents[3]
SECRET = "5b1d2c77e0a94f"  # noqa: S105 - no secret
COMPLETE = """
broker:
  listen: tcp://0.0.0.0:7430
  keep_days: ${KEEP_DAYS:-30}
dashboard: {host: 127.0.0.1, port: 8000, tokens: yes}
stopper:
  dry_run: true
  rules:
    - monitor: eval_loss
      patience: 3
    - name: a day
      max_seconds: 86400
      start_after: 2 evaluations
subscribers:
  slack:
    class: my_package.notify:Slack
    folder: code
    options:
      api_token: ${TEST_VALUE}
      version: 1.10
      names: [a, b]
    environment:
      LEVEL: debug
    projects: [vision*]
    on_error: skip
    from: live
  unused:
    class: m:C
    enabled: false
"""
Write = Callable[[str], StackConfiguration]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a configuration file and loads it, with a home that has no rules."""
    monkeypatch.setenv("TEST_VALUE", SECRET)
    (tmp_path / "code").mkdir()

    def load_text(text: str) -> StackConfiguration:
        (tmp_path / "lineside.yaml").write_text(text)
        return load(tmp_path / "lineside.yaml", tmp_path / "home")

    return load_text


def test_a_file_sets_what_it_has_and_the_rest_is_the_default(write: Write, tmp_path: Path) -> None:
    found = write(COMPLETE)
    values, slack = found.values, found.values.subscribers["slack"]
    assert (values.broker.listen, values.broker.keep_days) == ("tcp://0.0.0.0:7430", 30.0)
    assert (values.broker.keep_gb, values.recorder.enabled) == (10.0, True)
    assert (values.dashboard.port, values.dashboard.tokens) == (8000, True)
    assert [rule.name for rule in found.rules] == ["eval_loss patience", "a day"]
    assert found.runs_stopper
    assert (slack.target, slack.on_error, slack.begin) == (
        "my_package.notify:Slack",
        "skip",
        "live",
    )
    assert slack.options == {"api_token": SECRET, "version": "1.10", "names": ["a", "b"]}
    assert found.folder("slack") == tmp_path / "code"
    assert list(found.subscribers) == ["slack"]


@pytest.mark.parametrize("text", ["", "# nothing", "stopper:\nsubscribers:\n", "broker: {}"])
def test_an_empty_file_or_section_is_the_default(write: Write, text: str) -> None:
    found = write(text)
    assert found.values == Configuration()
    assert not found.runs_stopper


def test_lines_that_are_all_comments_leave_the_default(write: Write) -> None:
    parts = "\n    ".join(["options:", "runs:", "environment:", "# url: x", "folder: ."])
    alerts = "alerts:\n  rules:\n    nan:\n  notify:\n"
    found = write(f"exporter:\n{alerts}subscribers:\n  slack:\n    class: m:C\n    {parts}\n")
    slack = found.values.subscribers["slack"]
    assert (slack.options, slack.runs, slack.environment) == ({}, [], {})
    assert found.values.alerts == Configuration().alerts


def test_an_option_of_the_command_line_takes_no_port_of_another_process(write: Write) -> None:
    found = write("exporter: {enabled: true}")
    with pytest.raises(UsageError, match=r"exporter\.port: 9743 is the port of the dashboard too"):
        found.with_options({"port": 9743})


def test_rules_come_from_the_file_or_a_file_that_it_names_or_the_home(
    write: Write, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "rules.yaml").write_text("rules: [{max_steps: 1}]")
    (tmp_path / "mine.yaml").write_text("rules: [{max_steps: 2}]")
    assert [rule.max_steps for rule in write("").rules] == [1]
    assert [rule.max_steps for rule in write("stopper: {rules: mine.yaml}").rules] == [2]
    assert [rule.max_steps for rule in write("stopper: {rules: [{max_steps: 3}]}").rules] == [3]
    assert not write("stopper: {enabled: no}").runs_stopper
    (tmp_path / "mine.yaml").write_text("rules:\n- max_stepz: 2")
    with pytest.raises(DocumentError, match=r"mine\.yaml, line 2: rules\[0\]\.max_stepz: unknown"):
        write("stopper: {rules: mine.yaml}")


def faults() -> list[tuple[str, str]]:
    """The files of faults.txt, each with the sentence below it."""
    text = Path(__file__).with_name("faults.txt").read_text()
    parts = [one.partition("\n=> ") for one in text.strip().split("\n\n")]
    return [(before, after) for before, _, after in parts]


@pytest.mark.parametrize(("text", "message"), faults())
def test_a_fault_has_its_line_its_value_and_the_expectation(
    write: Write, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DocumentError) as error:
        write(text)
    assert str(error.value) == f"{tmp_path}/lineside.yaml, {message}"


def test_every_fault_of_the_file_is_reported_in_order(write: Write) -> None:
    with pytest.raises(DocumentError) as error:
        write("stopper:\n  rules: [{max_steps: 0}]\n  dry_run: x\nbrokr: 1")
    assert [one.key for one in error.value.problems] == [
        "stopper.rules[0].max_steps",
        "stopper.dry_run",
        "brokr",
    ]


def test_a_stopper_without_any_rules_is_an_error_if_the_file_enables_it(write: Write) -> None:
    with pytest.raises(
        DocumentError, match=r"line 1: stopper: there are no rules; expected rules "
    ):
        write("stopper: {enabled: true}")


def test_a_secret_that_is_no_valid_value_is_not_shown(write: Write) -> None:
    key = "sk-proj-" + "a1" * 20
    for text in (
        f"dashboard: {{port: {key}}}",
        "dashboard: {port: '${TEST_VALUE}'}",
        f"subscribers: {{s: {{class: m:C, environment: {{API_TOKEN: [{SECRET}]}}, x: {SECRET}}}}}",
        f'uploads: {{lake: {{url: "http://h", key: "{SECRET}\\n"}}}}',
        f'uploads: {{lake: {{url: "http://h", headers: {{X-Team: "{SECRET}\\n"}}}}}}',
        f'uploads: {{lake: {{url: "http://h", headers: "X-Team: {SECRET}"}}}}',
    ):
        with pytest.raises(UsageError) as error:
            write(text)
        assert key not in str(error.value)
        assert SECRET not in str(error.value)


def test_secrets_are_redacted_where_the_configuration_is_shown(write: Write) -> None:
    hook = "https://hooks.slack.com/services/T000/B000/XXXXXXXXXXXXXXXX"
    found = write(
        "subscribers:\n  s:\n    class: m:C\n    options:\n"
        f"      address: {hook}\n      password: hunter2\n      other: ${{API_KEY:-plain}}\n"
        "      level: ${TEST_LEVEL:-high}\n"
    )
    options = effective(found)["subscribers"]["s"]["options"]
    assert options["password"] == options["other"] == REDACTED
    assert "XXXX" not in options["address"]
    assert options["level"] == "high"


def test_a_shown_configuration_is_valid_and_shows_the_same(write: Write) -> None:
    shown = effective(write(COMPLETE))
    again = effective(write(yaml.safe_dump(shown)))
    assert again == shown
    assert shown["subscribers"]["slack"]["options"]["api_token"] == REDACTED
    assert shown["stopper"]["rules"][1] == {
        "name": "a day",
        "max_seconds": 86400.0,
        "start_after": "2 evaluations",
    }


def test_the_published_schema_is_current() -> None:
    committed = json.loads((ROOT / "docs" / "reference" / "lineside.schema.json").read_text())
    assert committed == json_schema.published(), (
        "run `lineside config schema > docs/reference/lineside.schema.json`"
    )


def test_the_published_schema_accepts_what_is_valid_and_refuses_what_is_not() -> None:
    validator = jsonschema_rs.validator_for(json_schema.published())
    assert list(validator.iter_errors(yaml.safe_load(COMPLETE))) == []
    for text in ("brokr: {}", "dashboard: {port: x}", "stopper: {rules: [{max_stepz: 1}]}"):
        assert not validator.is_valid(yaml.safe_load(text)), text


KEYS = st.sampled_from(
    [*json_schema.names_at(()), *json_schema.names_at(("subscribers", "s")), "rules", "port", "x"]
)
VALUES = st.recursive(
    st.sampled_from(["", "1", "true", "m:C", "~", "start", "a b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(VALUES)
def test_any_document_is_a_configuration_or_an_error_with_lines(write: Write, value: Any) -> None:
    text = yaml.safe_dump(value)
    try:
        write(text)
    except DocumentError as error:
        for problem in error.problems:
            assert 1 <= problem.line <= text.count("\n") + 1
            assert "expected" in problem.sentence or "keys here are" in problem.sentence
            assert "a value" not in problem.sentence


CALLBACKS = """
custom_callbacks:
  - wandb
  - name: my_company.Monitoring
    args: {endpoint: "https://h", key: "${ABSENT}", interval: 50, rate: 1e-4, live: yes, text: "5"}
    environment: {LEVEL: no, KEY: "${ABSENT}"}
    projects: [prod-*]
  - name: code/live.py:Live
    folder: code
    where: training
dashboard: {host: "${LATER:-127.0.0.1}"}
"""


def test_callbacks_are_read_as_yaml_and_keep_their_variables(write: Write, tmp_path: Path) -> None:
    wandb, monitoring = write(CALLBACKS).callbacks
    assert (wandb.id, wandb.folder) == ("wandb", str(tmp_path))
    assert monitoring.args == {
        "endpoint": "https://h",
        "key": "${ABSENT}",
        "interval": 50,
        "rate": 0.0001,
        "live": True,
        "text": "5",
    }
    assert monitoring.environment == {"LEVEL": "no", "KEY": "${ABSENT}"}
    assert monitoring.projects == ("prod-*",)


def test_callbacks_of_training_need_nothing_else_of_the_file(write: Write, tmp_path: Path) -> None:
    file = tmp_path / "lineside.yaml"
    file.write_text(CALLBACKS.replace("${LATER:-127.0.0.1}", "${ABSENT}"))
    [entry] = load_training_callbacks(file)
    assert (entry.id, entry.folder) == ("Live", str(tmp_path / "code"))
    file.write_text("custom_callbacks: [{name: a.B, where: training, python: p}]")
    with pytest.raises(DocumentError, match=r"line 1: custom_callbacks\[0\]\.python: is not poss"):
        load_training_callbacks(file)


def test_trackers_of_the_command_line_join_those_of_the_file(write: Write) -> None:
    configuration = write(CALLBACKS).with_trackers(["wandb", "mlflow"])
    assert [entry.id for entry in configuration.callbacks] == ["wandb", "Monitoring", "mlflow"]
    with pytest.raises(UsageError, match=r"--to mlflo: is no tracker; did you mean mlflow\?"):
        configuration.with_trackers(["mlflo"])


def test_a_tracker_without_its_package_is_a_fault_before_anything_starts(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_is_installed", lambda name: name != "mlflow")
    configuration = write("custom_callbacks: [wandb]").with_trackers(["mlflow"])
    with pytest.raises(DocumentError, match=r"mlflow: mlflow is not installed for .*; install it"):
        check_callbacks(configuration)
    monkeypatch.setattr(registry, "_is_installed", lambda _name: True)
    check_callbacks(configuration)


def test_secrets_of_callbacks_are_not_shown(write: Write) -> None:
    shown = effective(
        write(f"custom_callbacks: [{{name: a.B, args: {{api_key: {SECRET}, url: x}}}}]")
    )
    assert shown["custom_callbacks"][0]["args"] == {"api_key": REDACTED, "url": "x"}
