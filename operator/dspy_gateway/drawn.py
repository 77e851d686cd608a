"""How a user was drawn: what a draw table says, or what the token of a conversation keeps of the table that drew it.

A token is `<revision>.<weight>.<epoch>.<release>.<id>`: it tells every gateway pod where the conversation is and with
which chance it came there, and nothing has to be remembered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dspy_contract.routes import Routes

_TOKEN = re.compile(
    r"(?P<revision>[a-z0-9-]{1,63})\.(?P<weight>\d{1,5})\.(?P<epoch>\d{1,9})\.(?P<release>\d{1,9})\.(?P<id>[\w-]{1,64})"
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """For which revision, with which weight of it in basis points, in which epoch of which release. `by_token`: as a
    client says."""

    revision: str
    weight: int
    epoch: int
    release: int | None
    by_token: bool = False


def token_prefix(routes: Routes, revision: str, weights: Mapping[str, int]) -> str:
    """What the tokens of conversations have in common that these weights draw for a revision."""
    epoch, release = (routes.release.epoch, routes.release.id) if routes.release else (0, 0)
    return f"{revision}.{weights[revision]}.{epoch}.{release}."


def read_token(text: str) -> tuple[str, Drawn] | None:
    """The conversation's id, and how it was drawn; None for what is no token."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        return None
    weight, epoch, release = (int(match[name]) for name in ("weight", "epoch", "release"))
    return match["id"], Drawn(match["revision"], weight, epoch, release, by_token=True)
