"""Variables of the environment inside texts: ``${NAME}`` and ``${NAME:-default}``.

``$${`` is the text ``${``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_VARIABLE = re.compile(
    r"\$(?P<escaped>\$(?=\{))|\$\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>(?:(?!\$\{)[^}])*))?\}"
    r"|(?P<other>\$\{)",
    re.ASCII,
)


class Replaced(NamedTuple):
    """A text with its variables replaced, their names, and a sentence on each fault."""

    text: str
    names: tuple[str, ...]
    faults: tuple[str, ...]


def replace_variables(text: str, env: Mapping[str, str]) -> Replaced:
    """``text`` with the values of ``env``; a variable with a fault becomes an empty text."""
    names: list[str] = []
    faults: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        if match["other"]:
            faults.append(
                "'${' is invalid; expected ${NAME}, ${NAME:-default}, or $${ for the text"
            )
            return ""
        name, default = match["name"], match["default"]
        names.append(name)
        value = env.get(name)
        if value or (value is not None and default is None):
            return value
        if default is None:
            faults.append(f"the variable {name} is not set; set it, or write ${{{name}:-default}}")
        return default or ""

    return Replaced(_VARIABLE.sub(replace, text), tuple(names), tuple(faults))
