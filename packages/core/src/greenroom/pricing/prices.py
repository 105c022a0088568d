"""The price list: the user's own, or the one included in Greenroom."""

from __future__ import annotations

import datetime
import os
from importlib import resources
from pathlib import Path
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from greenroom.config import sources
from greenroom.config.values import validate
from greenroom.errors import InvalidRequest
from greenroom.untrusted import brief

_VARIABLE = f"{sources.PREFIX}PRICES"
_TABLE = "prices"


class Priced(BaseModel):
    """Prices from one source."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str | None = Field(default=None, min_length=1)
    """The page or document that states them."""
    date: datetime.date | None = None
    """The date of the source, or when it was read."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        prices = {name: getattr(self, name) for name in type(self).model_fields if name not in Priced.model_fields}
        missing = [name for name, price in prices.items() if price is None]
        if len(missing) == len(prices):
            return self
        missing += [name for name in Priced.model_fields if getattr(self, name) is None]
        if missing:
            given = next(name for name, price in prices.items() if price is not None)
            raise ValueError(f"{given} must be used with {' and '.join(missing)}")
        return self


class CodeInterpreter(Priced):
    """Azure's price for sessions that run code."""

    session_hour: float | None = Field(default=None, ge=0)


class Nodes(Priced):
    """Azure's price for the nodes that run custom containers."""

    node_hour: float | None = Field(default=None, ge=0)


class Machine(Priced):
    """The price of one's own machine."""

    cpu_hour: float | None = Field(default=None, ge=0)
    gib_hour: float | None = Field(default=None, ge=0)


class Prices(BaseModel):
    """A price list, all in one currency. Prices that are `None` are not set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = Field("USD", pattern="^[A-Z]{3}$")
    code_interpreter: CodeInterpreter = CodeInterpreter()
    custom_container: Nodes = Nodes()
    here: Machine = Machine()

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Self:
        """Return a price list: from a TOML file, else from the file named by `GREENROOM_PRICES`, else from the table
        [prices] of the file named by `GREENROOM_CONFIG`, else the one included in Greenroom.

        Raises:
            InvalidRequest: it cannot be read, or breaks a rule.
        """
        if path := path or os.environ.get(_VARIABLE) or None:
            return validate(cls, sources.read_toml(Path(path).expanduser()))
        if configuration := os.environ.get(sources.FILE_VARIABLE):
            content = sources.read_toml(configuration)
            if _TABLE in content:
                return cls.parse(content[_TABLE])
        with resources.as_file(resources.files("greenroom.pricing") / "prices.toml") as own:
            return validate(cls, sources.read_toml(own))

    @classmethod
    def parse(cls, content: Any) -> Self:
        """Return the price list in a table.

        Raises:
            InvalidRequest: it is not a price list, or breaks a rule.
        """
        if not isinstance(content, dict):
            raise InvalidRequest(f"The configuration must have a table [{_TABLE}], not {brief(content)}.")
        return validate(cls, cast("dict[str, Any]", content))
