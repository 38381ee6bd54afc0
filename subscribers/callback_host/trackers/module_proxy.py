"""A package as a callback sees it, with some functions replaced."""

from __future__ import annotations

from typing import Any


class ModuleProxy:
    """``module``, but for ``replaced``."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
