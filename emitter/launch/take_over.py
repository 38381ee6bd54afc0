"""Leaves the trackers of ``report_to`` out of the training process: ``lineside run --take-over``.

The Trainer gets a list of callback classes and makes them. Those of trackers are left out before
that, so that their packages are not imported, and their names go to the callback host with
``run_start``. A callback that the script made stays, as does a tracker that cannot be elsewhere.
"""

from __future__ import annotations

import configparser
import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from lineside.bus.local_stack import broker_listens
from lineside.bus.settings import Settings
from lineside.emitter.spool.confirmation import explain_unusable
from lineside.emitter.training.console import print_once
from lineside.emitter.training.facts.trainer import TAKEN_OVER
from lineside.emitter.training.identity import RankInfo

INTEGRATIONS = "transformers.integrations.integration_utils"
"""The module with the callbacks of all trackers."""

_SHORT_NAMES = {"azure_ml": "azureml", "comet_ml": "comet"}
# Packages with one run for a process, which a script's own calls share with the callback.
_PACKAGES = {
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "comet": "comet_ml",
    "clearml": "clearml",
    "swanlab": "swanlab",
}
# They import trackers and use a run only if there is one.
_LIBRARIES = ("transformers", "trl", "accelerate", "datasets", "peft", "torch", "lineside")
_TRUE = ("1", "true", "yes", "on")


def load_integrations(load: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Execute the integrations ``module`` so that it imports no tracker to see if it is there.

    ``report_to="all"`` resolves to the same names as without this.
    """
    config = SimpleNamespace(get_config=lambda _name: _comet_key())
    with _stand_in("comet_ml", config=config) as stand_in:
        load(module)
    if vars(module).get("comet_ml") is stand_in is not None:
        del module.comet_ml
    with contextlib.suppress(Exception):  # another version of the module loads as it is
        _patch_probes(module)


def _patch_probes(module: ModuleType) -> None:
    is_wandb_available = vars(module)["is_wandb_available"]

    def is_wandb_available_here() -> Any:
        with _stand_in("wandb", run=None):
            return is_wandb_available()

    vars(module)["is_wandb_available"] = is_wandb_available_here
    for name, package in {
        "is_azureml_available": "azureml.core.run",
        "is_flyte_deck_standard_available": "flytekitplugins.deck",
    }.items():
        if hasattr(module, name):
            setattr(module, name, functools.partial(_is_installed, package))


def patch_handler(handler: Any, recorder: Callable[[], Any]) -> None:
    """Let the CallbackHandler class leave trackers out, where a run is recorded.

    ``recorder`` returns the class of the callback that records it; None if that is not known.
    """
    original_init, original_add = handler.__init__, handler.add_callback
    original_pop, original_remove = handler.pop_callback, handler.remove_callback
    original_begin = handler.on_train_begin

    def __init__(self: Any, callbacks: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        taken: dict[type[Any], str] = {}
        with contextlib.suppress(Exception):
            if recorder() is not None:
                taken = _find_trackers(callbacks)
                callbacks = [one for one in callbacks if one not in taken]
        _set(self, taken)
        original_init(self, callbacks, *args, **kwargs)

    def add_callback(self: Any, callback: Any) -> Any:
        added = callback if isinstance(callback, type) else type(callback)
        for tracker, name in list(_get(self).items()):
            if issubclass(added, tracker):
                _give_back(self, tracker, name, "the script adds its callback itself")
        return original_add(self, callback)

    def on_train_begin(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A script may have begun a run of its own since its Trainer was made.
        for tracker, name in list(_get(self).items()):
            if reason := _reason_to_stay(name, os.environ):
                _give_back(self, tracker, name, reason)
        control = original_begin(self, *args, **kwargs)
        if _get(self) and not any(
            isinstance(one, recorder()) and not one.is_off for one in self.callbacks
        ):
            control = _begin_with_all(self, *args, **kwargs)
        _announce(_get(self).values())
        return control

    def _begin_with_all(self: Any, *args: Any, **kwargs: Any) -> Any:
        begun, self.callbacks = self.callbacks, []
        try:
            for tracker, name in list(_get(self).items()):
                _give_back(self, tracker, name, "this run is not recorded")
            return self.call_event("on_train_begin", *args, **kwargs)
        finally:
            self.callbacks = begun + self.callbacks

    def _give_back(self: Any, tracker: type[Any], name: str, reason: str) -> None:
        _set(self, {one: other for one, other in _get(self).items() if one is not tracker})
        _print_on_rank_0(_stays(name, reason))
        original_add(self, tracker)

    def _dropping(original: Callable[..., Any]) -> Callable[..., Any]:
        def remove(self: Any, callback: Any) -> Any:
            taken = _get(self)
            if isinstance(callback, type) and callback in taken:
                # As if it had been there: the script wants no such tracker.
                _set(self, {one: name for one, name in taken.items() if one is not callback})
                return None
            return original(self, callback)

        return remove

    handler.__init__, handler.add_callback = __init__, add_callback
    handler.pop_callback = _dropping(original_pop)
    handler.remove_callback = _dropping(original_remove)
    handler.on_train_begin = on_train_begin


def _find_trackers(callbacks: Iterable[Any]) -> dict[type[Any], str]:
    """The classes among ``callbacks`` that can run elsewhere, and their short names."""
    integrations = sys.modules.get(INTEGRATIONS)
    settings = Settings.from_env()
    if integrations is None or settings.disabled:
        return {}
    if explain_unusable(settings.broker, settings.spool) is not None:
        return {}
    short_names = {
        tracker: _SHORT_NAMES.get(name, name)
        for name, tracker in integrations.INTEGRATION_TO_CALLBACK.items()
    }
    own = [type(one) for one in callbacks if not isinstance(one, type)]
    found = {}
    for one in callbacks:
        if not isinstance(one, type) or one not in short_names:
            continue
        name = short_names[one]
        if any(issubclass(kind, one) for kind in own):
            reason: str | None = "the script adds its callback itself"
        else:
            reason = _reason_to_stay(name, os.environ, settings.broker)
        if reason is None:
            found[one] = name
        else:
            _print_on_rank_0(_stays(name, reason))
    return found


def _reason_to_stay(name: str, env: Mapping[str, str], broker: str = "") -> str | None:
    """Why the tracker ``name`` runs in the training process; None if it can run elsewhere."""
    package = _PACKAGES.get(name, "")
    if package in sys.modules and (user := _user_of(sys.modules[package])):
        return f"{user} uses {package} itself"
    if name == "wandb":
        if env.get("WANDB_WATCH", "false").lower() in ("gradients", "parameters", "all"):
            return "WANDB_WATCH needs the model itself"
        if env.get("WANDB_LOG_MODEL", "false").lower() in ("end", *_TRUE):
            return "WANDB_LOG_MODEL=end needs the model itself; `checkpoint` does not"
    elif name == "dvclive":
        if env.get("HF_DVCLIVE_LOG_MODEL", "false").lower() in _TRUE:
            return "HF_DVCLIVE_LOG_MODEL needs the model itself; `all` does not"
    elif name == "trackio":
        if "trl.extras.profiling" in sys.modules:
            return "TRL logs to it past its callback"
    elif name == "codecarbon":
        if broker.startswith("tcp://"):
            return "it measures the machine that it runs on"
    elif name == "kubeflow":
        return "it needs the token of this pod"
    elif name == "azureml":
        if "AZUREML_RUN_ID" in env:
            return "it needs the token of this job"
    elif name == "clearml":
        if "CLEARML_TASK_ID" in env:
            return "its agent may change the script's arguments"
    elif name == "flyte" and "FLYTE_INTERNAL_EXECUTION_ID" in env:
        return "it needs the task that runs here"
    return None


def _user_of(package: ModuleType) -> str:
    """A module outside of the libraries with ``package`` among its globals; else empty."""
    own = (package.__name__, *_LIBRARIES)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in own:
            continue
        with contextlib.suppress(Exception):  # modules may be any objects
            if any(value is package for value in list(vars(module).values())):
                return "the script" if name == "__main__" else name
    return ""


def _announce(names: Iterable[str]) -> None:
    if not (trackers := ", ".join(names)):
        return
    with contextlib.suppress(Exception):
        settings = Settings.from_env()
        if broker_listens(settings.broker) is False:
            _print_on_rank_0(
                f"{trackers} run outside of this process: no broker answers at {settings.broker}; "
                f"the values wait in {settings.spool}, and `lineside up` sends them"
            )
        else:
            _print_on_rank_0(
                f"{trackers} run outside of this process: the callback host logs to them"
            )


def _print_on_rank_0(text: str) -> None:
    if RankInfo.from_env().rank == 0:
        print_once(text)


def _stays(name: str, reason: str) -> str:
    return f"{name} stays in this process: {reason}"


def _get(handler: Any) -> dict[type[Any], str]:
    taken: dict[type[Any], str] = getattr(handler, "_lineside_trackers", {})
    return taken


def _set(handler: Any, taken: dict[type[Any], str]) -> None:
    handler._lineside_trackers = taken
    setattr(handler, TAKEN_OVER, tuple(taken.values()))


def _is_installed(name: str) -> bool:
    """Whether the module ``name`` can be found, without importing the packages above it."""
    path: Any = None
    parts = name.split(".")
    for index in range(len(parts)):
        full = ".".join(parts[: index + 1])
        spec = importlib.util.find_spec(full) if index == 0 else PathFinder.find_spec(full, path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return True


@contextlib.contextmanager
def _stand_in(name: str, **attributes: Any) -> Iterator[ModuleType | None]:
    """A module with ``attributes`` in place of the package ``name``, if that is installed and was
    not imported."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None or spec.origin is None:  # a folder that an uninstall left has no origin
        yield None
        return
    module = ModuleType(name)
    module.__spec__ = spec
    module.__dict__.update(attributes)
    sys.modules[name] = module
    try:
        yield module
    finally:
        if sys.modules.get(name) is module:
            del sys.modules[name]


def _comet_key() -> str | None:
    """The key of Comet in the environment or in one of its files."""
    if key := os.environ.get("COMET_API_KEY"):
        return key
    named = Path(os.environ.get("COMET_CONFIG") or "~").expanduser()
    for path in (named, Path.home(), Path.cwd()):
        parser = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            parser.read(path / ".comet.config" if path.is_dir() else path)
            if key := parser.get("comet", "api_key", fallback=""):
                return key
    return None
