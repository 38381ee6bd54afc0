"""What exists in the training process only, and the error that names it."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from lineside.bus.errors import LinesideError


class LiveObjectNeeded(LinesideError):
    """A hosted callback touched something of which it has only a description: ``what``."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} exists in the training process only: a hosted callback gets a description of "
            "model, optimizer and data, not the objects. Give the callback `where: training`"
        )
        self.what = what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what,)


class LiveAttributeNeeded(LiveObjectNeeded, AttributeError):
    """The same of an attribute that the real object may lack, so that ``hasattr`` is False."""


class LiveMember:
    """A method or part that the real object has: it can be looked up, but not used."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise LiveObjectNeeded(f"{self.__name__}()")

    def __getattr__(self, name: str) -> Any:
        if _is_protocol(name):
            raise AttributeError(name)
        raise LiveObjectNeeded(f"{self.__name__}.{name}")

    def __bool__(self) -> bool:
        raise LiveObjectNeeded(self.__name__)

    __len__ = __iter__ = __getitem__ = __float__ = __int__ = __enter__ = __call__

    def __repr__(self) -> str:
        return f"<{self.__name__} of the training process>"


class StandIn:
    """In place of an object of the training process, with what is known of it.

    A member of ``LIVE`` can be looked up, and raises ``LiveObjectNeeded`` once it is used. Any
    other attribute that is not known is missing, as ``hasattr`` finds.
    """

    LIVE: ClassVar[frozenset[str]] = frozenset()

    def __getattr__(self, name: str) -> Any:
        cls = type(self)
        if _is_protocol(name):
            raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")
        what = f"{cls.__name__.removesuffix('StandIn')}.{name}"
        if name in cls.LIVE:
            return LiveMember(what)
        raise LiveAttributeNeeded(what)

    def __repr__(self) -> str:
        return f"<{type(self).__name__.removesuffix('StandIn')} of the training process>"


def named_class(
    base: type, name: object, module: object = None, live: frozenset[str] = frozenset()
) -> type:
    """A subclass of ``base`` that is called ``name``; of the base's name if that is no name."""
    text = name if isinstance(name, str) and name else base.__name__
    namespace: dict[str, Any] = {"__qualname__": text, "__doc__": base.__doc__}
    if isinstance(module, str):
        namespace["__module__"] = module
    if live:
        namespace["LIVE"] = live
    return type(text, (base,), namespace)


def names(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


def _is_protocol(name: str) -> bool:
    """Whether Python or a library looks the name up to learn what an object can do."""
    return name.startswith("__") and name.endswith("__")
