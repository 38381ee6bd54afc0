"""Callbacks by configuration: the entries of ``custom_callbacks``, and the objects made from them.

An entry is a text, or a mapping with ``name`` and ``args``. The name is ``pkg.mod.Class``,
``/path/file.py:Class`` or a short name of ``STOCK_CALLBACKS``. ``${VAR}`` in ``args`` and
``environment`` is a variable of the process that makes the callback. No error shows a value of
``args``.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lineside.bus.auth.roles import is_reserved_producer
from lineside.bus.callbacks.callback_class import (
    check_arguments,
    load_class,
    raised_at,
)
from lineside.bus.callbacks.hidden_values import hide_arguments
from lineside.bus.errors import CallbackConfigError
from lineside.bus.protocol.events import is_run_id
from lineside.bus.variables import replace_variables
from lineside.bus.wording import did_you_mean

STOCK_CALLBACKS: Mapping[str, str] = {
    "tensorboard": "transformers.integrations.TensorBoardCallback",
    "wandb": "transformers.integrations.WandbCallback",
    "mlflow": "transformers.integrations.MLflowCallback",
    "trackio": "transformers.integrations.TrackioCallback",
    "comet": "transformers.integrations.CometCallback",
    # That of transformers calls swanlab.get_run(), which raises since swanlab 0.9.
    "swanlab": "swanlab.integration.transformers.SwanLabCallback",
    "dvclive": "transformers.integrations.DVCLiveCallback",
    "clearml": "transformers.integrations.ClearMLCallback",
    "neptune": "transformers.integrations.NeptuneCallback",
    "codecarbon": "transformers.integrations.CodeCarbonCallback",
    "azureml": "transformers.integrations.AzureMLCallback",
    "dagshub": "transformers.integrations.DagsHubCallback",
    "flyte": "transformers.integrations.FlyteCallback",
    "kubeflow": "transformers.integrations.KubeflowCallback",
}
"""Short names, and the class that each stands for."""
HOST, TRAINING = "host", "training"
"""Where a callback runs: in a process of its own, or in the training process."""
ON_ERROR = ("skip", "retry", "stop")

_CLASS_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
_FILE_CLASS = re.compile(r".+\.py:[^\W\d]\w*", re.DOTALL)
_HOST_KEYS = ("projects", "runs", "environment", "python", "on_error", "torch")


@dataclass(frozen=True)
class CallbackEntry:
    """One callback to make, and where it runs. ``args`` and ``environment`` hold ``${VAR}`` as
    written. ``folder`` is importable, after installed packages, and a relative path of a file
    begins there; empty is the working folder. ``index`` is the place in the list."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict, repr=False)
    id: str = ""
    projects: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    python: str | None = None
    where: str = HOST
    on_error: str | None = None
    torch: bool | None = None
    folder: str = ""
    index: int = 0

    @property
    def class_path(self) -> str:
        """``pkg.mod.Class`` or ``/path/file.py:Class``."""
        return STOCK_CALLBACKS.get(self.name, self.name)

    def as_mapping(self) -> dict[str, Any]:
        """The entry as ``parse_entry`` takes it, for JSON."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        del values["index"]
        return {name: value for name, value in values.items() if value not in (None, "", (), {})}

    def error(self, sentence: str, *key: str | int) -> CallbackConfigError:
        """The error that the value at ``key`` of this entry cannot be used."""
        return CallbackConfigError(self.index, self.name, key, sentence)


def parse_entries(values: Iterable[str | Mapping[str, Any]]) -> tuple[CallbackEntry, ...]:
    """The entries of a list, each with an id of its own.

    Raises:
        CallbackConfigError: an entry has an unknown key or an invalid value, or the id of another.
    """
    return with_ids([parse_entry(value, index) for index, value in enumerate(values)])


def parse_entry(value: object, index: int = 0) -> CallbackEntry:
    """One entry; its id is empty if none is given.

    Raises:
        CallbackConfigError: it has an unknown key or an invalid value.
    """
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        kind = type(value).__name__
        expected = "a text, or a mapping with name and args"
        raise CallbackConfigError(index, "", (), f"is of type {kind}; expected {expected}")
    name = value.get("name")
    entry = CallbackEntry(name if isinstance(name, str) else "", index=index)
    known = {one.name for one in dataclasses.fields(CallbackEntry)} - {"index"}
    for key in value:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"; expected {', '.join(sorted(known))}"
            raise entry.error(f"unknown key{hint}", str(key))
    _check_name(entry, name)
    given = {key: one for key, one in value.items() if one is not None}
    for key in ("args", "environment"):
        if not isinstance(given.get(key, {}), Mapping):
            raise entry.error("expected names and values", key)
    for key in ("projects", "runs"):
        given[key] = _patterns(entry, key, given.get(key, ()))
    for key in ("id", "python", "folder"):
        if not isinstance(given.get(key, ""), str):
            raise entry.error("expected a text", key)
    if not isinstance(given.get("torch", False), bool):
        raise entry.error("expected true or false", "torch")
    _check_choice(entry, "where", given.get("where", HOST), (HOST, TRAINING))
    _check_choice(entry, "on_error", given.get("on_error", ON_ERROR[0]), ON_ERROR)
    given["environment"] = {
        str(key): _variable_text(entry, key, one)
        for key, one in given.get("environment", {}).items()
    }
    entry = dataclasses.replace(entry, **given)
    _check_id(entry)
    if entry.where == TRAINING:
        for key in _HOST_KEYS:
            if getattr(entry, key) not in (None, (), {}):
                raise entry.error(
                    "is not possible with `where: training`, where the callback runs in the "
                    "training process itself; expected no such key",
                    key,
                )
    return entry


def with_ids(entries: Sequence[CallbackEntry]) -> tuple[CallbackEntry, ...]:
    """The entries, each with an id: the short name or the name of the class, with -2 and so on.

    Raises:
        CallbackConfigError: two entries have one id.
    """
    owners: dict[str, CallbackEntry] = {}
    for entry in entries:
        if entry.id and (owner := owners.setdefault(entry.id, entry)) is not entry:
            raise entry.error(f"{entry.id!r} is the id of entry {owner.index} too", "id")
    found = []
    for entry in entries:
        if not entry.id:
            entry = dataclasses.replace(entry, id=_free_id(entry, owners))
            owners[entry.id] = entry
            _check_id(entry)
        found.append(entry)
    return tuple(found)


def make_callback(entry: CallbackEntry, env: Mapping[str, str] | None = None) -> Any:
    """The callback of ``entry``, with a Trainer's hooks also if its class is a plain loop's.

    ``env`` has the variables, by default this process's.

    Raises:
        CallbackConfigError: a variable is not set, the class cannot be imported or is no
            TrainerCallback, an argument is missing or unknown, or the constructor raised.
    """
    return construct(entry, *check_callback(entry, env))


def construct(entry: CallbackEntry, found: type[Any], arguments: Mapping[str, Any]) -> Any:
    """The callback of ``entry`` from its class and arguments as ``check_callback`` returns them.

    Raises:
        CallbackConfigError: the constructor raised.
    """
    try:
        return found(**arguments)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a constructor of a user's own
        message = f"{type(error).__name__}: {hide_arguments(str(error), arguments)}"
        sentence = f"{found.__name__}(...) raised {message}{raised_at(error)}"
        # With the error itself, a traceback would show the message as it was.
        raise entry.error(sentence, "args") from None


def check_callback(
    entry: CallbackEntry, env: Mapping[str, str] | None = None
) -> tuple[type[Any], dict[str, Any]]:
    """The class of ``entry`` and its arguments, without making the callback.

    Raises:
        CallbackConfigError: as ``make_callback``, but for the constructor's own errors.
    """
    arguments = {
        str(name): _resolve(entry, value, env, ("args", name)) for name, value in entry.args.items()
    }
    found = load_class(entry.class_path, entry.folder, entry.error)
    check_arguments(found, arguments, entry.error)
    return found, arguments


def entry_environment(entry: CallbackEntry, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that ``entry`` sets for its process.

    Raises:
        CallbackConfigError: a variable that a value names is not set.
    """
    return {
        name: _resolve(entry, value, env, ("environment", name))
        for name, value in entry.environment.items()
    }


def load_callbacks_from_config(values: Iterable[str | Mapping[str, Any]]) -> list[Any]:
    """The callbacks of a list of entries, for ``Trainer(callbacks=...)``.

    Raises:
        CallbackConfigError: an entry cannot be used; none is left out.
    """
    return [make_callback(entry) for entry in parse_entries(values)]


def _check_name(entry: CallbackEntry, name: object) -> None:
    if name is None:
        raise entry.error("is missing; expected the class of a callback", "name")
    if not isinstance(name, str):
        raise entry.error(f"{name!r} is no text; expected the class of a callback", "name")
    if name in STOCK_CALLBACKS or _CLASS_PATH.fullmatch(name) or _FILE_CLASS.fullmatch(name):
        return
    raise entry.error(
        f"{name!r} is no class{did_you_mean(name, STOCK_CALLBACKS)}; expected pkg.mod.Class, "
        f"/path/file.py:Class, or one of {', '.join(STOCK_CALLBACKS)}",
        "name",
    )


def _check_id(entry: CallbackEntry) -> None:
    # It is a producer on the run, beside Lineside's own processes.
    is_free = not is_reserved_producer(entry.id) and entry.id != "callback-host"
    if entry.id and not (is_run_id(entry.id) and is_free):
        raise entry.error(
            f"{entry.id!r} is no id; expected 1 to 128 of A-Z a-z 0-9 . _ - not beginning with . "
            "or -, and no name of a rank or a process of Lineside",
            "id",
        )


def _check_choice(entry: CallbackEntry, key: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise entry.error(f"{value!r} is invalid; expected one of {', '.join(known)}", key)


def _patterns(entry: CallbackEntry, key: str, value: object) -> tuple[str, ...]:
    patterns = (value,) if isinstance(value, str) else value
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
        raise entry.error("expected a list of texts; `*` in one fits any text", key)
    return tuple(patterns)


def _variable_text(entry: CallbackEntry, name: object, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int, float)):
        raise entry.error("expected a text", "environment", str(name))
    return str(value)


def _free_id(entry: CallbackEntry, taken: Mapping[str, CallbackEntry]) -> str:
    short = {path: name for name, path in STOCK_CALLBACKS.items()}.get(entry.class_path)
    first = short or re.split(r"[.:]", entry.class_path)[-1]
    candidate, number = first, 1
    while candidate in taken:
        number += 1
        candidate = f"{first}-{number}"
    return candidate


def _resolve(
    entry: CallbackEntry, value: Any, env: Mapping[str, str] | None, key: tuple[str | int, ...]
) -> Any:
    """``value`` with the variables in each of its texts replaced."""
    if isinstance(value, str):
        replaced = replace_variables(value, os.environ if env is None else env)
        if replaced.faults:
            raise entry.error(replaced.faults[0], *key)
        return replaced.text
    if isinstance(value, Mapping):
        return {name: _resolve(entry, one, env, (*key, name)) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_resolve(entry, one, env, (*key, index)) for index, one in enumerate(value)]
    return value
