"""Callbacks from entries of ``custom_callbacks``: names, variables, arguments, and their errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.callback_config import (
    STOCK_CALLBACKS,
    check_callback,
    entry_environment,
    load_callbacks_from_config,
    make_callback,
    parse_entries,
    parse_entry,
)
from lineside.bus.errors import CallbackConfigError

SOURCE = """
from transformers import TrainerCallback

class Plain(TrainerCallback):
    pass

class Company(TrainerCallback):
    def __init__(self, endpoint, api_key, interval=10, nested=None):
        if interval == 0:
            raise ValueError(f"no interval, with the key {api_key} at {nested}")
        self.given = (endpoint, api_key, interval, nested)

class Other:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with the package ``seed_callbacks``."""
    package = tmp_path / "seed_callbacks"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "monitoring.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("seed_", "alone_")):
            del sys.modules[name]


def fault_of(*values: Any) -> str:
    with pytest.raises(CallbackConfigError) as caught:
        load_callbacks_from_config(values)
    return str(caught.value)


def test_a_class_of_the_working_folder_and_one_of_a_file_are_made(folder: Path) -> None:
    (folder / "alone.py").write_text(SOURCE)
    made = load_callbacks_from_config(
        [
            "seed_callbacks.monitoring.Plain",
            {"name": f"{folder}/alone.py:Company", "args": {"endpoint": "a", "api_key": "b"}},
            {"name": "alone.py:Company", "args": {"endpoint": "c", "api_key": "d"}},
        ]
    )
    assert [type(one).__name__ for one in made] == ["Plain", "Company", "Company"]
    assert made[1].given == ("a", "b", 10, None)
    assert type(made[1]) is type(made[2])


def test_a_module_of_the_working_folder_hides_no_installed_one(folder: Path) -> None:
    (folder / "transformers.py").write_text("raise SystemExit('imported')")
    [made] = load_callbacks_from_config(["transformers.trainer_callback.PrinterCallback"])
    assert type(made).__module__ == "transformers.trainer_callback"


def test_variables_are_replaced_at_every_depth_and_inside_texts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEED_KEY", "k-1")
    nested = {"list": ["${SEED_KEY}", 3], "escaped": "$${SEED_KEY}", "default": "${SEED_NO:-x}"}
    [made] = load_callbacks_from_config(
        [
            {
                "name": "seed_callbacks.monitoring.Company",
                "args": {
                    "endpoint": "https://${SEED_KEY}@h/${SEED_KEY}",
                    "api_key": "${SEED_KEY}",
                    "nested": nested,
                },
            }
        ]
    )
    assert made.given[:2] == ("https://k-1@h/k-1", "k-1")
    assert made.given[3] == {"list": ["k-1", 3], "escaped": "${SEED_KEY}", "default": "x"}


def test_an_unset_variable_is_named_with_its_entry_and_argument(folder: Path) -> None:
    arguments = {"endpoint": "a", "api_key": "b", "nested": {"list": ["${SEED_UNSET}"]}}
    company = {"name": "seed_callbacks.monitoring.Company", "args": arguments}
    assert fault_of("seed_callbacks.monitoring.Plain", company) == (
        "custom_callbacks[1] (seed_callbacks.monitoring.Company): args.nested.list.0: "
        "the variable SEED_UNSET is not set; set it, or write ${SEED_UNSET:-default}"
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("seed_nowhere.mod.Class", "there is no module 'seed_nowhere', neither installed nor in"),
        ("seed_callbacks.monitor.Plain", "seed_callbacks has no module monitor"),
        ("seed_callbacks.monitoring.Plan", "has no Plan; did you mean Plain?"),
        ("seed_callbacks.monitoring.Other", "is no TrainerCallback"),
        ("/seed/file.py:Plain", "there is no file /seed/file.py"),
        ("seed.py", "there is no module 'seed'"),
        ("wandbb", "did you mean wandb?; expected pkg.mod.Class"),
        ("seed:Plain", "'seed:Plain' is no class; expected pkg.mod.Class"),
        ("", "'' is no class"),
    ],
)
def test_a_class_that_cannot_be_had_is_explained(folder: Path, name: str, sentence: str) -> None:
    fault = fault_of(name)
    assert fault.startswith("custom_callbacks[0]")
    assert sentence in fault


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import seed_missing_dependency", "No module named 'seed_missing_dependency'"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_an_error_inside_the_module_is_shown_with_its_line(
    folder: Path, source: str, sentence: str
) -> None:
    (folder / "seed_broken.py").write_text(f"# first line\n{source}\n")
    fault = fault_of("seed_broken.Callback")
    assert "cannot be imported" in fault
    assert sentence in fault
    assert f"{folder}/seed_broken.py, line 2" in fault


def test_missing_and_unknown_arguments_are_named_beside_those_there_are(folder: Path) -> None:
    name = "seed_callbacks.monitoring.Company"
    there = "Company takes endpoint, api_key, interval, nested"
    missing = fault_of({"name": name, "args": {"endpoint": "a"}})
    assert missing.endswith(f"args.api_key: this argument is missing and has no default; {there}")
    given = {"endpoint": "a", "api_key": "secret-1", "intervall": 5}
    unknown = fault_of({"name": name, "args": given})
    assert unknown.endswith(f"args.intervall: unknown argument; did you mean interval?; {there}")
    none = fault_of({"name": "seed_callbacks.monitoring.Plain", "args": {"x": 1}})
    assert none.endswith("args.x: unknown argument; Plain takes no arguments")


def test_an_error_of_the_constructor_shows_no_value_of_an_argument(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEED_KEY", "top-secret'\\1")
    given = {
        "endpoint": "a",
        "api_key": "${SEED_KEY}",
        "interval": 0,
        "nested": {"token": "${SEED_KEY} and more"},
    }
    fault = fault_of({"name": "seed_callbacks.monitoring.Company", "args": given})
    assert "Company(...) raised ValueError: no interval, with the key <args.api_key>" in fault
    assert "top-secret" not in fault
    assert "monitoring.py, line 10" in fault


def test_checking_makes_no_callback(folder: Path) -> None:
    given = {"endpoint": "a", "api_key": "b", "interval": 0}
    entry = parse_entry({"name": "seed_callbacks.monitoring.Company", "args": given})
    found, arguments = check_callback(entry)
    assert found.__name__ == "Company"
    assert arguments["interval"] == 0
    with pytest.raises(CallbackConfigError):
        make_callback(entry)


def test_ids_are_short_names_or_classes_and_differ() -> None:
    entries = parse_entries(
        [
            "wandb",
            "transformers.integrations.WandbCallback",
            "/x/file.py:Mine",
            "my.Mine",
            {"name": "mlflow", "id": "Mine-2"},
        ]
    )
    assert [one.id for one in entries] == ["wandb", "wandb-2", "Mine", "Mine-3", "Mine-2"]
    assert entries[0].class_path == entries[1].class_path == STOCK_CALLBACKS["wandb"]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (3, "is of type int; expected a text, or a mapping with name and args"),
        ({}, "name: is missing"),
        ({"name": "wandb", "arg": {}}, "arg: unknown key; did you mean args?"),
        ({"name": "wandb", "args": ["secret-2"]}, "args: expected names and values"),
        ({"name": "wandb", "id": "a/b"}, "id: 'a/b' is no id"),
        ({"name": "wandb", "id": "rank0"}, "id: 'rank0' is no id"),
        ({"name": "wandb", "id": "watchdog"}, "id: 'watchdog' is no id"),
        ({"name": "wandb", "id": "callback-host"}, "id: 'callback-host' is no id"),
        ({"name": "wandb", "where": "there"}, "where: 'there' is invalid"),
        ({"name": "wandb", "on_error": "die"}, "expected one of skip, retry, stop"),
        ({"name": "wandb", "torch": "no"}, "torch: expected true or false"),
        ({"name": "wandb", "runs": 3}, "runs: expected a list of texts"),
        ({"name": "wandb", "environment": {"A": {}}}, "environment.A: expected a text"),
        ({"name": "wandb", "where": "training", "python": "/p"}, "python: is not possible with"),
    ],
)
def test_an_invalid_entry_names_the_key_and_the_expectation(entry: Any, sentence: str) -> None:
    with pytest.raises(CallbackConfigError) as caught:
        parse_entries([entry])
    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)


def test_two_entries_with_one_id_are_refused() -> None:
    with pytest.raises(CallbackConfigError, match="'x' is the id of entry 0 too"):
        parse_entries([{"name": "wandb", "id": "x"}, {"name": "mlflow", "id": "x"}])


def test_an_entry_is_the_same_after_json() -> None:
    value = {
        "name": "wandb",
        "args": {"a": ["${X}"]},
        "id": "w",
        "projects": ["prod-*"],
        "runs": ["r"],
        "environment": {"WANDB_PROJECT": "${P}", "WANDB_SILENT": True, "N": 1},
        "python": "/opt/env/bin/python",
        "on_error": "retry",
        "torch": False,
    }
    entry = parse_entry(value)
    assert parse_entry(entry.as_mapping()) == entry
    assert entry_environment(entry, {"P": "p"}) == {
        "WANDB_PROJECT": "p",
        "WANDB_SILENT": "true",
        "N": "1",
    }
    with pytest.raises(CallbackConfigError, match=r"environment\.WANDB_PROJECT: the variable P is"):
        entry_environment(entry, {})


def test_the_repr_of_an_entry_shows_no_argument() -> None:
    assert "secret" not in repr(parse_entry({"name": "wandb", "args": {"key": "secret"}}))
