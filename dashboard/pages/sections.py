"""Charts and configuration of a run, both in groups."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lineside.bus.protocol.events import RANK_0, SAMPLER_PREFIX
from lineside.dashboard.http.strict_json import strict
from lineside.store.history.curves.records import Series

_PREFIXES = (
    ("eval", "Evaluation"),
    ("test", "Prediction"),
    ("predict", "Prediction"),
    ("train", "Training"),
)
_GROUPS = ("Training", "Evaluation", "Prediction")
_FIRST_METRICS = ("loss", "accuracy", "grad_norm", "learning_rate")
_FROM = "From "
_SYSTEM, _OF_GPU = "System: ", ", GPU "
_GPU = re.compile(r"gpu(\d+)/")
_CAPACITY = re.compile(
    r"(memory_total_|memory_limit_|/size_)bytes$"
)  # constant: no curve shows anything
_SYSTEM_ORDER = tuple(
    re.compile(pattern)
    for pattern in (
        "process/cpu|/utilization",
        "process/resident|gpu.*/memory_used",
        "cgroup/|/power_watts|/temperature",
        "process/disk|/memory_copy",
        "process/",
        "host/cpu",
        "host/memory",
        "host/",
        "filesystem/output",
        "filesystem/",
    )
)
MAX_CHARTS = 500
"""Charts on one page; the API has the other metrics."""
_NOT_CHARTED = frozenset({"epoch"})
_CONFIGURATION = (
    ("Config", ("config",)),
    ("Arguments", ("args",)),
    ("Model", ("model",)),
    ("Data", ("loaders", "processing")),
    ("Versions", ("versions",)),
    ("Process", ("process",)),
    ("Environment", ("environment",)),
)
_MAX_DEPTH = 6


@dataclass(frozen=True)
class Group:
    """Charts under one heading."""

    name: str
    charts: list[Series]

    @property
    def is_system(self) -> bool:
        """Whether a sampler measured these, of a machine."""
        return self.name.startswith(_SYSTEM)


@dataclass(frozen=True)
class Setting:
    """One line of the configuration; ``faint`` if it has no value."""

    name: str
    value: str
    faint: bool


@dataclass(frozen=True)
class SettingGroup:
    """Settings under one heading."""

    name: str
    rows: list[Setting]


def charts(series: Iterable[Series], *, is_running: bool) -> tuple[list[Group], list[Series]]:
    """Metrics with curves by group, and those of an ended run with a single value.

    A machine's metrics stay together, also after a run so short that there is one sample.
    """
    groups: dict[str, list[Series]] = {}
    singles = []
    for one in series:
        is_system = one.producer.startswith(SAMPLER_PREFIX)
        if one.name in _NOT_CHARTED or (is_system and _CAPACITY.search(one.name)):
            continue
        if one.count == 1 and not is_running and not is_system:
            singles.append(one)
        else:
            groups.setdefault(_group(one), []).append(one)
    own = [name for name in _GROUPS if name in groups]
    others = sorted(set(groups) - set(own), key=_group_order)
    return [
        Group(name, sorted(groups[name], key=_chart_order)) for name in (*own, *others)
    ], singles


def most_important(series: Iterable[Series]) -> list[Series]:
    """At most ``MAX_CHARTS`` of the metrics: the training's and the well-known ones first."""
    found = list(series)
    if len(found) > MAX_CHARTS:
        found.sort(key=lambda one: (one.producer != RANK_0, *_chart_order(one)))
    return found[:MAX_CHARTS]


def configuration(facts: Mapping[str, Any]) -> list[SettingGroup]:
    """The facts of a run by group, flattened: ``model.config.n_head``."""
    rest = dict(strict(facts)[0])
    found = []
    for title, names in _CONFIGURATION:
        rows: list[Setting] = []
        for name in names:
            if name in rest:
                rows.extend(_flatten(rest.pop(name), "" if len(names) == 1 else name))
        found.append(SettingGroup(title, rows))
    rest.pop("state", None)
    found.append(SettingGroup("Run", list(_flatten(rest, "")) if rest else []))
    return [group for group in found if group.rows]


def _group(series: Series) -> str:
    name = series.name
    if series.producer.startswith(SAMPLER_PREFIX):
        host, gpu = series.producer.removeprefix(SAMPLER_PREFIX), _GPU.match(name)
        return f"{_SYSTEM}{host}{_OF_GPU}{gpu[1]}" if gpu else f"{_SYSTEM}{host}"
    if series.producer != RANK_0:
        return f"{_FROM}{series.producer}"
    head, slash, _ = name.partition("/")
    for prefix, group in _PREFIXES:
        if head == prefix or name.startswith(f"{prefix}_"):
            return group
    return head if slash else "Training"


def _group_order(name: str) -> tuple[int, str, int]:
    """Producers beside the training come last, machines after them; GPU 10 after GPU 2."""
    if not name.startswith(_SYSTEM):
        return int(name.startswith(_FROM)), name, 0
    host, _, gpu = name.partition(_OF_GPU)
    # A training may give its own metrics such a name.
    return 2, host, int(gpu) + 1 if gpu.isdecimal() else 0


def _chart_order(series: Series) -> tuple[int, str]:
    name = series.name.lower()
    if series.producer.startswith(SAMPLER_PREFIX):
        matches = (bool(pattern.search(name)) for pattern in _SYSTEM_ORDER)
        return next((i for i, found in enumerate(matches) if found), len(_SYSTEM_ORDER)), name
    for place, word in enumerate(_FIRST_METRICS):
        if name.rpartition("/")[2].removeprefix("eval_").removeprefix("train_") == word:
            return place, name
    late = any(word in name for word in ("runtime", "per_second", "flos"))
    return len(_FIRST_METRICS) + late, name


def _flatten(value: Any, name: str, depth: int = 0) -> Iterator[Setting]:
    if value is None and not name:
        return
    if isinstance(value, dict) and set(value) == {"!"}:
        yield Setting(name, str(value["!"]), faint=True)
    elif isinstance(value, dict) and value and depth < _MAX_DEPTH:
        for key in sorted(value) if depth == 0 else value:
            yield from _flatten(value[key], f"{name}.{key}" if name else key, depth + 1)
    elif value is None or value == "" or value == [] or value == {}:
        yield Setting(name, "none" if value is None else "empty", faint=True)
    else:
        yield Setting(name, value if isinstance(value, str) else _text(value), faint=False)


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        return ", ".join(str(item) for item in value)
    return json.dumps(value, ensure_ascii=False)
