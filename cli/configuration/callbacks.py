"""The section ``custom_callbacks`` of a configuration file: its schema, and its entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lineside.bus import yaml_document
from lineside.bus.callback_config import (
    HOST,
    ON_ERROR,
    STOCK_CALLBACKS,
    TRAINING,
    CallbackEntry,
    parse_entry,
    with_ids,
)
from lineside.bus.errors import CallbackConfigError, UsageError
from lineside.bus.wording import did_you_mean
from lineside.bus.yaml_document import DocumentError, Key, Problem, YamlDocument

SECTION = "custom_callbacks"
_TEXTS = {"type": "array", "items": {"type": "string"}}
_NAME = "The class, as `pkg.mod.Class` or `/path/file.py:Class`, or the short name of a tracker."
_FOLDER = "Folder whose modules can be imported, after installed packages."
_ENVIRONMENT = "Variables of the environment for its process; `${VAR}` is replaced there."
_PYTHON = "Interpreter of its process, of an environment that has its packages and Lineside's."
_ON_ERROR = "After an exception: `skip` the event, `retry` it, or `stop` the callback for this run."
_TORCH = "Whether it can import torch; without, a process takes 190 MiB less."

SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": ["string", "object"],
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "minLength": 1, "description": _NAME},
            "args": {
                "type": "object",
                "default": {},
                "description": "Arguments of the class; `${VAR}` in a text is replaced at start.",
            },
            "id": {
                "type": "string",
                "default": "",
                "description": "Name of its processes, cursors and errors, instead of the "
                "tracker's or the class's.",
            },
            "where": {
                "enum": [HOST, TRAINING],
                "default": HOST,
                "description": "`host`: a process of its own for each run. `training`: the "
                "training process, under `lineside run`.",
            },
            "runs": {
                **_TEXTS,
                "default": [],
                "description": "Only runs with such an id or name; `*` fits any text.",
            },
            "projects": {
                **_TEXTS,
                "default": [],
                "description": "Only runs of such a project; `*` fits any text.",
            },
            "folder": {
                "type": "string",
                "format": "path",
                "default": ".",
                "description": _FOLDER,
            },
            "environment": {
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean"]},
                "default": {},
                "description": _ENVIRONMENT,
            },
            "python": {"type": "string", "default": None, "description": _PYTHON},
            "on_error": {"enum": list(ON_ERROR), "default": None, "description": _ON_ERROR},
            "torch": {"type": "boolean", "default": None, "description": _TORCH},
        },
    },
}
"""The list as a JSON schema."""


def parse_section(document: YamlDocument) -> tuple[CallbackEntry, ...]:
    """The entries in ``document``. None may have the name of a subscriber or an upload.

    Raises:
        DocumentError: an entry cannot be used.
    """
    values = document.typed((SECTION,)) or []
    if not isinstance(values, list):
        return ()  # the schema reports it
    problems: list[Problem] = []
    entries: list[CallbackEntry] = []
    for index, value in enumerate(values):
        try:
            entries.append(parse_entry(_with_folder(document, index, value), index))
        except CallbackConfigError as error:
            problems.append(entry_problem(document, error))
    if not problems:
        try:
            entries = list(with_ids(entries))
        except CallbackConfigError as error:
            problems.append(entry_problem(document, error))
    problems += _clashes(document, entries)
    if problems:
        raise DocumentError(problems)
    return tuple(entries)


def load_training_callbacks(path: Path) -> tuple[CallbackEntry, ...]:
    """The callbacks in the configuration file ``path`` that run in the training process.

    Reads nothing else of the file, and needs no variable and no package of the stack's processes.

    Raises:
        DocumentError: the file, or an entry, has faults.
        UsageError: the file cannot be read.
        MissingExtra: PyYAML is not installed.
    """
    document = yaml_document.load(
        path, what="a configuration file", keeps_variables=lambda _key: True
    )
    entries = parse_section(document) if isinstance(document.value, dict) else ()
    return tuple(entry for entry in entries if entry.where == TRAINING)


def entry_problem(document: YamlDocument, error: CallbackConfigError) -> Problem:
    """The ``error`` of an entry of ``document``, with its line."""
    key: Key = (SECTION, error.index, *error.key)
    name = f"{error.name}: " if error.name and not error.key else ""
    return document.problem(key, f"{name}{error.sentence}")


def with_trackers(
    entries: tuple[CallbackEntry, ...], names: Sequence[str]
) -> tuple[CallbackEntry, ...]:
    """``entries`` and one of each tracker in ``names`` that is none of them.

    Raises:
        UsageError: a name is of no tracker.
    """
    found = list(entries)
    for name in names:
        if name not in STOCK_CALLBACKS:
            known = ", ".join(STOCK_CALLBACKS)
            hint = did_you_mean(name, STOCK_CALLBACKS)
            raise UsageError(f"--to {name}: is no tracker{hint}; expected one of {known}")
        path = STOCK_CALLBACKS[name]
        if not any(one.class_path == path and not one.projects and not one.runs for one in found):
            found.append(parse_entry(name, len(found)))
    return with_ids(found)


def _with_folder(document: YamlDocument, index: int, value: Any) -> Any:
    """``value`` with the file's folder, and with variables of the environment as written."""
    file = Path(document.file).absolute().parent
    if isinstance(value, str):
        return {"name": value, "folder": str(file)}
    if not isinstance(value, dict):
        return value
    folder = value.get("folder")
    if folder is None or isinstance(folder, str):
        value["folder"] = str(file / Path(folder or ".").expanduser())
    if isinstance(value.get("environment"), Mapping):
        value["environment"] = document.get((SECTION, index, "environment"))
    return value


def _clashes(document: YamlDocument, entries: Sequence[CallbackEntry]) -> Iterator[Problem]:
    names = {
        name: what
        for section, what in (("subscribers", "a subscriber"), ("uploads", "an upload"))
        if isinstance(found := document.get((section,)), Mapping)  # the schema reports others
        for name in found
    }
    for entry in entries:
        key: Key = (SECTION, entry.index, "id")
        if entry.id in names:
            yield document.problem(
                key, f"{entry.id!r} is {names[entry.id]} too; expected another id"
            )
        if not Path(entry.folder).is_dir():
            yield document.invalid((SECTION, entry.index, "folder"), "a folder")
