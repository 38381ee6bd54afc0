"""Reads and checks a configuration file; each fault has its line, its value and the expectation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lineside.bus import yaml_document
from lineside.bus.callback_config import HOST, CallbackEntry
from lineside.bus.errors import UsageError
from lineside.bus.yaml_document import DocumentError, Key, Problem, YamlDocument
from lineside.cli.configuration import archive, callbacks, upload
from lineside.cli.configuration.json_schema import expectation, has_parts, names_at
from lineside.cli.configuration.schema import Configuration, Subscriber
from lineside.emitter.redaction.names import is_secret_name
from lineside.emitter.redaction.text import REDACTED, redact_text
from lineside.subscribers.http.secret_url import without_secrets
from lineside.subscribers.stopper import rule_parser

if TYPE_CHECKING:
    from lineside.subscribers.stopper.rules import Rule

_RULES: Key = ("stopper", "rules")


@dataclass(frozen=True)
class StackConfiguration:
    """What a stack runs. ``rules`` are the stopper's, from the file, from a file that it names, or
    from the home. ``document`` is None without a configuration file. ``callbacks`` are those of the
    host, with those of ``trackers``, which the command line names."""

    values: Configuration
    rules: tuple[Rule, ...]
    document: YamlDocument | None = None
    callbacks: tuple[CallbackEntry, ...] = ()
    trackers: tuple[str, ...] = ()

    @property
    def path(self) -> Path | None:
        """The configuration file, as an absolute path."""
        return Path(self.document.file).absolute() if self.document else None

    @property
    def runs_stopper(self) -> bool:
        """Whether there are rules and the stopper is enabled."""
        return self.values.stopper.enabled and bool(self.rules)

    @property
    def subscribers(self) -> dict[str, Subscriber]:
        """The enabled subscribers by name."""
        return {name: one for name, one in self.values.subscribers.items() if one.enabled}

    def folder(self, name: str) -> Path:
        """The folder that the subscriber ``name`` works in, as an absolute path."""
        return _absolute(self.path, self.values.subscribers[name].folder)

    @property
    def archive(self) -> archive.Archive:
        """The archive of checkpoints; a relative path of its starts from the file's folder."""
        section = self.values.archive
        folder = self.path.parent if self.path else Path.cwd()
        return section.model_copy(update={"url": archive.absolute_url(section.url, folder)})

    @property
    def runs_archiver(self) -> bool:
        """Whether there is an archive and the archiver is enabled."""
        return self.values.archive.enabled and bool(self.values.archive.url)

    def with_archive(self, url: str) -> StackConfiguration:
        """This configuration with the archive at ``url``, unless it is empty.

        Raises:
            UsageError: no archive can be there.
        """
        if not url:
            return self
        try:
            absolute = archive.absolute_url(archive.archive_url(url), Path.cwd())
        except ValueError as expected:
            raise UsageError(f"--archive {url!r}: expected {expected}") from None
        section = self.values.archive.model_copy(update={"url": absolute, "enabled": True})
        return replace(self, values=self.values.model_copy(update={"archive": section}))

    def with_trackers(self, names: Sequence[str]) -> StackConfiguration:
        """This configuration with the trackers ``names`` among the callbacks."""
        found = callbacks.with_trackers(self.callbacks, names)
        return replace(self, callbacks=found, trackers=tuple(names))

    def with_options(self, options: Mapping[str, Any]) -> StackConfiguration:
        """This configuration with ``options`` of the command line of ``lineside up``."""
        update = {}
        for name in ("broker", "dashboard"):
            section = getattr(self.values, name)
            fields = type(section).model_fields
            given = {key: value for key, value in options.items() if key in fields}
            update[name] = section.model_copy(update=given)
        changed = replace(self, values=self.values.model_copy(update=update))
        if clash := changed.port_clash():
            name, sentence = clash
            raise UsageError(f"{name}.port: {sentence}")
        return changed

    def port_clash(self) -> tuple[str, str] | None:
        """A section whose port another one has too, and a sentence on it; None if there is none."""
        owners: dict[int, str] = {}
        for name, section in self.values:
            port = getattr(section, "port", 0) if getattr(section, "enabled", False) else 0
            if port and (owner := owners.setdefault(port, name)) != name:
                return name, f"{port} is the port of the {owner} too; expected another"
        return None


def load(path: Path | None, home: Path) -> StackConfiguration:
    """The configuration in ``path``, or the default one of ``home`` without a path.

    Raises:
        DocumentError: the file, or a file of rules, has faults.
        UsageError: a file cannot be read.
    """
    if path is None:
        return StackConfiguration(Configuration(), _rules_of_home(home))
    document = yaml_document.load(
        path,
        what="a configuration file",
        redact=_redact,
        # The process that makes the callback replaces them.
        keeps_variables=lambda key: key[:1] == (callbacks.SECTION,),
    )
    try:
        values = Configuration.model_validate(_without_empty_parts(document.value, ()))
    except ValidationError as error:
        problems = list(_problems(document, error))
    else:
        problems = []
    rules: tuple[Rule, ...] = ()
    entries: tuple[CallbackEntry, ...] = ()
    try:
        rules = _rules(document, home)
    except DocumentError as error:
        problems += error.problems
    try:
        entries = callbacks.parse_section(document)
    except DocumentError as error:
        problems += error.problems
    if problems:
        raise DocumentError(sorted(problems, key=lambda one: (one.file != str(path), one.line)))
    hosted = tuple(entry for entry in entries if entry.where == HOST)
    configuration = StackConfiguration(values, rules, document, hosted)
    if "enabled" in values.stopper.model_fields_set and values.stopper.enabled and not rules:
        sentence = f"there are no rules; expected rules here or in {home / rule_parser.FILE_NAME}"
        raise DocumentError([document.problem(("stopper",), sentence)])
    if clash := configuration.port_clash():
        raise DocumentError([document.problem((clash[0], "port"), clash[1])])
    for name in values.uploads:
        if name in values.subscribers:
            sentence = f"{name} is the name of a subscriber too; expected another"
            raise DocumentError([document.problem(("uploads", name), sentence)])
    for name in values.subscribers:
        if not configuration.folder(name).is_dir():
            raise DocumentError([document.invalid(("subscribers", name, "folder"), "a folder")])
    return configuration


def _without_empty_parts(value: Any, key: Key) -> Any:
    """``value`` at ``key`` without sections, mappings and lists whose lines are all comments."""
    if not isinstance(value, dict):
        return {} if value is None and not key else value
    parts = {name for name in names_at(key) if has_parts((*key, name))}
    return {
        name: _without_empty_parts(one, (*key, name))
        for name, one in value.items()
        if one is not None or name not in parts
    }


def _problems(document: YamlDocument, error: ValidationError) -> Iterator[Problem]:
    for fault in error.errors(include_url=False, include_input=False):
        key: Key = fault["loc"]
        if fault["type"] == "extra_forbidden":
            yield document.unknown(key, names_at(key[:-1]))
            continue
        reason = fault.get("ctx", {}).get("error")
        expected = str(reason) if reason else expectation(key)
        if key and key[-1] == "[key]":
            yield document.problem(key[:-1], f"the name is invalid; expected {expected}")
        else:
            yield document.invalid(key, expected)


def _rules(document: YamlDocument, home: Path) -> tuple[Rule, ...]:
    value = document.get(_RULES)
    if value is None:
        return _rules_of_home(home)
    if not isinstance(value, str):
        return rule_parser.parse_rules(document, _RULES)
    path = _absolute(Path(document.file), Path(value))
    if not path.is_file():
        raise DocumentError([document.invalid(_RULES, "a list of rules, or a file of rules")])
    return rule_parser.load(path)


def _rules_of_home(home: Path) -> tuple[Rule, ...]:
    path = home / rule_parser.FILE_NAME
    return rule_parser.load(path) if path.exists() else ()


def _absolute(file: Path | None, path: Path) -> Path:
    """``path``, which a configuration file has, as an absolute one."""
    folder = file.absolute().parent if file else Path.cwd()
    return folder / path.expanduser()


def _redact(key: Key, text: str) -> str:
    name = str(key[-1]) if key else ""
    if name == "url" and key[0] != archive.SECTION:
        return without_secrets(text)
    is_secret = is_secret_name(name) or upload.is_secret(key) or archive.is_secret(key)
    return REDACTED if is_secret else redact_text(text)
