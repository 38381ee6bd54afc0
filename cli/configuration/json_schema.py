"""The JSON Schema of a configuration file: published for editors, and the source of expectations.

``docs/reference/lineside.schema.json`` is a copy of ``published``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from lineside.bus.yaml_document import Key
from lineside.cli.configuration.schema import Configuration

_NOUNS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a finite number",
    "string": "a text",
    "array": "a list",
    "object": "names and values",
}
_WITH_VARIABLE = {"type": "string", "pattern": r"\$\{.+\}"}


def published() -> dict[str, Any]:
    """The schema for editors: each number and switch may be a variable as well."""
    schema = _allow_variables(Configuration.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def names_at(key: Key) -> list[str]:
    """The names that the mapping at ``key`` may have."""
    return list(node_at(key).get("properties", ()))


def has_parts(key: Key) -> bool:
    """Whether the value at ``key`` is a mapping or a list."""
    return node_at(key).get("type") in ("array", "object")


def expectation(key: Key) -> str:
    """What the value at ``key`` is expected to be, in words."""
    return _describe(node_at(key))


@lru_cache(1)
def _schema() -> dict[str, Any]:
    return Configuration.model_json_schema()


def node_at(key: Key) -> dict[str, Any]:
    """The schema of the value at ``key``."""
    node = _schema()
    for part in key:
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
        node = _resolved(node) if isinstance(node, dict) else {}
    return node


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    references = [one for one in node.get("anyOf", ()) if "$ref" in one]
    if len(references) == 1:  # a section that may be missing
        return {**_resolved(references[0]), **node}
    if "$ref" not in node:
        return node
    definition: dict[str, Any] = _schema()["$defs"][node["$ref"].rpartition("/")[2]]
    return definition


def _describe(node: dict[str, Any]) -> str:
    if "anyOf" in node:
        return " or ".join(_describe(one) for one in node["anyOf"] if one.get("type") != "null")
    if "enum" in node:
        return f"one of {', '.join(node['enum'])}"
    noun = _NOUNS.get(str(node.get("type")), "a value")
    lowest, highest = node.get("minimum"), node.get("maximum")
    above = node.get("exclusiveMinimum")
    if above is not None:
        return f"{noun} above {above:g}" + ("" if highest is None else f", at most {highest:g}")
    if lowest is not None and highest is not None:
        return f"{noun} from {lowest:g} to {highest:g}"
    if lowest is not None:
        return f"{noun} of at least {lowest:g}"
    if node.get("minLength"):
        return f"{noun} that is not empty"
    return noun


def _allow_variables(node: Any) -> Any:
    if isinstance(node, list):
        return [_allow_variables(one) for one in node]
    if not isinstance(node, dict):
        return node
    changed = {name: _allow_variables(value) for name, value in node.items()}
    is_scalar = changed.get("type") in ("boolean", "integer", "number") or "enum" in changed
    if not is_scalar:
        return changed
    about = {
        name: changed.pop(name) for name in ("title", "description", "default") if name in changed
    }
    return {**about, "anyOf": [changed, _WITH_VARIABLE]}
