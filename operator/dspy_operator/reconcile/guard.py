"""A look of the guard: routes from the store, counts from the gateways, and at most one write of the routes.

It never waits for a pass. What it knows beyond the gateways' tables is what the last pass and the looks since left:
totals of tables that were forgotten, and the policy's analysis; without them it judges what the gateways still tell, by
the default.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from prometheus_client import Counter

from dspy_contract.logs import Logger
from dspy_contract.routes import CONTENT_KEY, Backend, Routes, dump, routes_name
from dspy_kube.client import MERGE, UNREACHABLE, ApiException, ConflictException, Kube, Object
from dspy_kube.store import Store
from dspy_operator.api.names import FIELD_MANAGER
from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis.evidence import Evidence, Look, accumulate
from dspy_operator.domain.analysis.streams import spending_of
from dspy_operator.domain.following import newest_serial
from dspy_operator.domain.guard import Watched, guard, lower
from dspy_operator.errors import RetryError
from dspy_operator.gateway_poller import Poller
from dspy_operator.kube.observe import read_routes
from dspy_operator.kube.paths import path
from dspy_operator.reconcile.memory import Known, Memories
from dspy_operator.workqueue import Key

FASTEST_SECONDS = 0.1
"""At most one look at a program in this time."""

SHORTEST_SECONDS = 0.001
"""A wait that is shorter than this is none: a clock may not tell it from nothing."""

LOOK_SECONDS = 1.0
"""While a release moves it is looked at this often, whatever the gateways say: silence is news as well."""

GUARDED_SECONDS = 5.0
"""A program's switch is renewed only while its last look is younger than this."""

LOOKS = Counter("dspy_operator_guard_looks", "Looks of the guard, by what came of them.", ["result"])
log = Logger(__name__)


class Guard:
    """Works on `guard/<namespace>/<program>`."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        poller: Poller,
        memories: Memories,
        wake_pass: Callable[[Key], None],
        leads: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._store = store
        self._poller = poller
        self._memories = memories
        self._wake_pass = wake_pass
        self._leads = leads
        self._clock = clock
        self._looked_at: dict[tuple[str, str], tuple[int, float]] = {}

    def guarding(self, namespace: str, program: str) -> int | None:
        """The release of a program whose counts were looked at a moment ago; what renews its switch."""
        release, at = self._looked_at.get((namespace, program), (0, float("-inf")))
        return release if asyncio.get_running_loop().time() - at < GUARDED_SECONDS else None

    async def work(self, key: Key) -> float | None:
        """One look. Returns after how many seconds the program wants another; None when no release moves."""
        now = asyncio.get_running_loop().time()
        _, at = self._looked_at.get((key.namespace, key.name), (0, float("-inf")))
        if now - at < FASTEST_SECONDS - SHORTEST_SECONDS:
            return FASTEST_SECONDS - (now - at)
        item = self._store.get("ConfigMap", key.namespace, routes_name(key.name))
        routes = read_routes(item)
        if item is None or routes is None or routes.release is None or not routes.release.candidates:
            self._looked_at.pop((key.namespace, key.name), None)
            return None
        try:
            judged = await self._look(key, item, routes)
        except (ApiException, *UNREACHABLE) as error:
            LOOKS.labels("failed").inc()
            log.warning("The guard could not lower a candidate yet", key=str(key), error=type(error).__name__)
            raise RetryError from error
        except Exception as error:  # nothing that a look meets may end the guard of all other programs
            LOOKS.labels("bug").inc()
            log.exception("A look failed unexpectedly", key=str(key))
            raise RetryError from error
        if judged:
            self._looked_at[key.namespace, key.name] = (routes.release.id, asyncio.get_running_loop().time())
        return LOOK_SECONDS

    async def _look(self, key: Key, item: Object, routes: Routes) -> bool:
        """Judges, and writes with the fence; whoever wrote first is read once, and judged again at once.

        False when it could not judge: then nobody guards the candidate, and its switch runs out.
        """
        for _ in range(3):
            known = self._known_of(key, routes)
            if known is None:
                # Routes and ledger disagree: only a pass can tell which of them is right. Without weight nothing hangs
                # on it, as with the ledger of a newer operator, which no pass brings to agree.
                LOOKS.labels("disagree").inc()
                if routes.tries_candidates:
                    self._wake_pass(Key("program", key.namespace, key.name))
                return False
            lowered = self._judge(key, routes, known)
            if lowered is None:
                LOOKS.labels("nothing").inc()
                return True
            if not self._leads():
                return False  # it may have stood still for long: what it knows is not what another leader knows
            try:
                await self._write(key, item, lowered)
            except ConflictException:
                item = await self._kube.request("GET", path("ConfigMap", key.namespace, routes_name(key.name)))
                self._store.put("ConfigMap", item)
                fresh = read_routes(item)
                if fresh is None or fresh.release is None:
                    return False
                routes = fresh
                continue
            LOOKS.labels("lowered").inc()
            self._wake_pass(Key("program", key.namespace, key.name))
            return True
        return False

    def _known_of(self, key: Key, routes: Routes) -> Known | None:
        """What the last pass knew, the default before the first one; None when its ledger says something else."""
        assert routes.release is not None
        backends = {candidate: routes.backend(candidate) for candidate in routes.candidates}
        release = routes.release.id
        known = self._memories.known(key.namespace, key.name)
        if known is None:
            # A number beyond any that the stored ledger may have answered.
            nothing = Watched(Evidence(), int(self._clock()))
            return Known(release, 0, Analysis(), backends, dict.fromkeys(backends, nothing))
        agree = known.release == release and backends.keys() <= known.backends.keys()
        return known if agree and not any(_has_more(each, known) for each in backends.values()) else None

    def _judge(self, key: Key, routes: Routes, known: Known) -> Routes | None:
        """The routes to write; None when nothing is to be lowered."""
        assert routes.release is not None
        _, states = self._poller.latest(key.namespace)
        release = routes.release
        spending = spending_of(known.analysis.streams)
        watched = {}
        for candidate in release.candidates:
            sides, before = (release.stable, candidate), known.watched[candidate]
            look = Look(routes.uid, *sides, known.release, known.step, self._clock(), spending)
            users = self._poller.users(key.namespace, routes.uid, known.release, sides)
            watched[candidate] = replace(before, evidence=accumulate(before.evidence, states, look, users))
        evidence = {candidate: each.evidence for candidate, each in watched.items()}
        self._memories.remember(key.namespace, key.name, known.release, evidence)
        if any(each.epoch > release.epoch for each in evidence.values()):
            # From now on slow answers count, once a pass has put the epoch into the routes.
            self._wake_pass(Key("program", key.namespace, key.name))
        unseen = self._poller.unseen(key.namespace, routes.users)
        lowered = guard(routes, watched, known.analysis, unseen)
        if lowered is None:
            return None
        log.info("The guard lowers a candidate", key=str(key), reason=lowered.reason, why=lowered.message)
        return lower(routes, lowered, newest_serial(states.values(), routes.uid, routes))

    async def _write(self, key: Key, item: Object, routes: Routes) -> None:
        name = routes_name(key.name)
        body = {
            "metadata": {"resourceVersion": item["metadata"]["resourceVersion"]},
            "data": {CONTENT_KEY: dump(routes)},
        }
        written = await self._kube.request(
            "PATCH", path("ConfigMap", key.namespace, name), {"fieldManager": FIELD_MANAGER}, body, MERGE
        )
        self._store.put("ConfigMap", written)


def _has_more(backend: Backend, known: Known) -> bool:
    """Whether a candidate has more than the last pass gave it."""
    given = known.backends[backend.revision]
    return backend.weight > given.weight or backend.mirror > given.mirror
