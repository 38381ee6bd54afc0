"""The base of every section of a configuration file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """Keys with a default each; an unknown key is a fault.

    A section, mapping or list without any content is its default, so that the lines below its name
    may be comments.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_empty_parts(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            name: value
            for name, value in values.items()
            if value is not None or not cls._has_parts(name)
        }

    @classmethod
    def _has_parts(cls, name: str) -> bool:
        field = cls.model_fields.get(name)
        return field is not None and isinstance(field.get_default(), (BaseModel, dict, list))
