"""Model uris in MLflow's own syntax, `models:/name/3` and `models:/name@alias`, and what they name. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dspy_operator.api.reasons import Reason
from dspy_operator.errors import InvalidSpecError

_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[\w.-]+))$")


@dataclass(frozen=True, slots=True)
class ModelUri:
    """A registered model with either a version or an alias."""

    name: str
    version: str | None
    alias: str | None

    def __str__(self) -> str:
        return f"models:/{self.name}" + (f"/{self.version}" if self.version else f"@{self.alias}")


@dataclass(frozen=True, slots=True)
class Identity:
    """A version, as the registry names it. `model_id` is empty for those of older MLflow; `stamp` says whether another
    was made under the same number."""

    name: str
    number: str
    model_id: str
    stamp: str

    @property
    def uri(self) -> str:
        """The version's own uri."""
        return f"models:/{self.name}/{self.number}"


def parse(uri: str) -> ModelUri:
    """A uri as its parts. Raises InvalidSpecError with what to write instead."""
    match = _URI.match(uri)
    if match is None:
        raise InvalidSpecError(
            Reason.INVALID_MODEL_URI, f"spec.model.uri {uri!r} must be models:/name/3 or models:/name@alias"
        )
    return ModelUri(match["name"], match["version"], match["alias"])
