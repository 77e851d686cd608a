"""A/B test: a fixed share of the users for the candidate until the two are told apart; the winner takes over, with a
while to go back."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from dspy_contract.routes import TOTAL_WEIGHT, Users
from dspy_operator.api import rollout
from dspy_operator.domain.analysis.means import is_measure
from dspy_operator.domain.steps import Compare, SetWeight, Step, Watch
from dspy_operator.domain.strategies.canary import basis_points


def steps_of(test: rollout.ABTest, candidates: int = 1) -> tuple[Step, ...]:
    """The steps of a release under this policy. So many candidates share the one chance to be wrong."""
    compare = Compare(
        test.compare.stream,
        (1 - test.compare.confidence_percent / 100) / candidates,
        test.until.max_seconds,
        test.until.users,
        test.until.requests,
        test.on_win,
        test.on_loss,
        test.on_tie,
    )
    watch = Watch(test.warm_seconds, basis_points(test.holdback_percent))
    return (SetWeight(_share(test, candidates)), compare, watch)


def _share(test: rollout.ABTest, candidates: int) -> int:
    """Of each candidate, in basis points; as much as stable keeps, unless given."""
    given = test.candidate_percent
    return TOTAL_WEIGHT // (candidates + 1) if given is None else basis_points(given)


def users_of(test: rollout.ABTest, uid: str, release: int, candidates: Sequence[str]) -> Users:
    """How users are drawn in a release. Where the candidates' ranges begin depends on program and release alone."""
    cookie, share = test.users.cookie, _share(test, len(candidates))
    start = zlib.crc32(f"{uid}/{release}".encode()) % TOTAL_WEIGHT
    return Users(
        header=test.users.header or "",
        cookie=cookie.name if cookie else "",
        cookie_seconds=cookie.max_age_seconds if cookie else 0,
        start=start,
        starts=tuple(
            (name, (start + number * share) % TOTAL_WEIGHT) for number, name in enumerate(candidates) if number
        ),
        unseen_seconds=test.unseen_seconds,
        measure=test.compare.stream if is_measure(test.compare.stream) else "",
    )
