"""Polls the gateway pods of namespaces in which something moves. A poll waits at the agent for the next failure or
confirmation, so news arrives at once and silence costs one request a second.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from prometheus_client import Counter

from dspy_contract.logs import Logger
from dspy_contract.routes import GATEWAY_NAME, Users
from dspy_contract.state import GatewayState, Interest, Poll, UserLog
from dspy_kube.client import Object
from dspy_kube.objects import is_ready
from dspy_operator.agent_client import AgentError, Agents
from dspy_operator.domain.analysis.users import NO_USERS, Sample, UserTotals
from dspy_operator.domain.news import News, news_of

WAIT_SECONDS = 1.0
PODS_SECONDS = 1.0
"""How often the list of gateway pods is read."""

FRESH_SECONDS = 4.0
"""An answer that is older counts as none."""

GONE_SECONDS = 10.0
UNSEEN_SECONDS = 10.0
"""A pod that carries traffic and has told no counts for this long is out of sight: no candidate has weight then."""

POLLS = Counter("dspy_operator_gateway_polls", "Polls of gateway pods.", ["result"])
_GATEWAY_SET = re.compile(rf"^{GATEWAY_NAME}-[a-z0-9]+$")
log = Logger(__name__)


@dataclass
class _Pod:
    address: str
    task: asyncio.Task[None]
    state: GatewayState | None = None
    at: float = 0.0


@dataclass
class _Namespace:
    interested: dict[str, str] = field(default_factory=dict)
    """The uids of programs by name."""
    carrying: frozenset[str] = frozenset()
    pods: dict[str, _Pod] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    began_at: float = field(default_factory=lambda: _now())
    carrying_since: dict[str, float] = field(default_factory=dict)
    """By pod that runs: when it first was Ready, which may come and go while it tells nothing."""
    samples: dict[str, Sample] = field(default_factory=dict)
    """The users of programs, by uid."""

    def take_users(self, uid: str, pod: str, log: UserLog) -> None:
        """Takes what a pod tells of a program's users. A new release has a sample of its own."""
        sample = self.samples.get(uid)
        if sample is None or sample.release < log.release:
            sample = self.samples[uid] = Sample(log.release)
        if sample.release == log.release:
            sample.take(pod, log, _now())

    def seen_at(self, name: str) -> float:
        """The latest of the pod's last answer, its beginning to carry traffic, and ours to look."""
        pod = self.pods.get(name)
        return max(pod.at if pod else 0.0, self.carrying_since.get(name, 0.0), self.began_at)


class Poller:
    """Knows the latest state of every gateway pod in the namespaces of interest."""

    def __init__(
        self,
        agents: Agents,
        pods: Callable[[str], list[Object]],
        wake: Callable[[str, str, News], None],
        token: Callable[[str], str],
        interest: Callable[[str, str, str], Interest],
    ) -> None:
        """`pods` lists a namespace's gateway pods, `wake` hears what is new of a program, `token` opens the agents'
        pages, `interest` is what a poll says of a program (namespace, name, and `pod/incarnation`)."""
        self._agents = agents
        self._list_pods = pods
        self._wake = wake
        self._token = token
        self._interest = interest
        self._namespaces: dict[str, _Namespace] = {}

    def follow(self, namespace: str, program: str, uid: str | None) -> None:
        """Begins (with a uid) or ends the interest of a program in its namespace's gateways."""
        known = self._namespaces.setdefault(namespace, _Namespace())
        if uid is not None:
            known.interested[program] = uid
            if known.task is None or known.task.done():
                known.task = asyncio.create_task(self._follow(namespace, known))
        else:
            known.samples.pop(known.interested.pop(program, ""), None)
            if not known.interested:
                self._drop(namespace)

    def latest(self, namespace: str) -> tuple[frozenset[str], dict[str, GatewayState]]:
        """The pods that carry traffic, and what those that answer said last."""
        known = self._namespaces.get(namespace)
        if known is None:
            return frozenset(), {}
        now = _now()
        fresh = {name: pod.state for name, pod in known.pods.items() if pod.state and now - pod.at < FRESH_SECONDS}
        return known.carrying, fresh

    def users(
        self,
        namespace: str,
        uid: str,
        release: int,
        sides: tuple[str, str],
        exposure_seconds: float = math.inf,
        late_seconds: float = 0.0,
    ) -> UserTotals:
        """What the users of a release met who were drawn for stable or a candidate (the `sides`), as far as its
        gateways have told; see `Sample.totals`."""
        known = self._namespaces.get(namespace)
        pods, told = self.latest(namespace)
        sample = known.samples.get(uid) if known else None
        heard = bool(pods) and pods <= told.keys()
        if sample is None or sample.release != release:
            return replace(NO_USERS, complete=heard)
        complete = heard and sample.is_complete(told)
        stable, candidate = sides
        totals = sample.totals(candidate, _now(), exposure_seconds, late_seconds, stable)
        return replace(totals, complete=complete)

    def unseen(self, namespace: str, users: Users | None) -> frozenset[str]:
        """The pods that carry traffic and have not been heard of for too long: longer where users are drawn."""
        known = self._namespaces.get(namespace)
        if known is None:
            return frozenset()
        now, longest = _now(), users.unseen_seconds if users else UNSEEN_SECONDS
        return frozenset(name for name in known.carrying if now - known.seen_at(name) > longest)

    async def close(self) -> None:
        """Ends every poll."""
        for namespace in list(self._namespaces):
            self._drop(namespace)
        await self._agents.close()

    def _drop(self, namespace: str) -> None:
        known = self._namespaces.pop(namespace)
        for task in [known.task, *(pod.task for pod in known.pods.values())]:
            if task is not None:
                task.cancel()

    async def _follow(self, namespace: str, known: _Namespace) -> None:
        """Keeps one poll running for every gateway pod that has an address."""
        while True:
            try:
                self._follow_pods(namespace, known)
            except Exception:  # what one pod's object says must not end the polls of its namespace
                log.exception("The gateway pods could not be followed", namespace=namespace)
            await asyncio.sleep(PODS_SECONDS)

    def _follow_pods(self, namespace: str, known: _Namespace) -> None:
        pods = [pod for pod in self._list_pods(namespace) if _is_gateway(pod)]
        running = {pod["metadata"]["name"]: pod for pod in pods if pod.get("status", {}).get("podIP")}
        carrying = frozenset(name for name, pod in running.items() if _carries(pod))
        if carrying != known.carrying:
            for program in known.interested:
                self._wake(namespace, program, News(bad_answers=False, obeyed=True, answered=False))
        known.carrying = carrying
        now = _now()
        known.carrying_since = {
            name: known.carrying_since.get(name, now)
            for name in running
            if name in known.carrying or name in known.carrying_since
        }
        for name in known.pods.keys() - running.keys():
            known.pods.pop(name).task.cancel()
        for name, pod in running.items():
            address, polled = pod["status"]["podIP"], known.pods.get(name)
            if polled is None or polled.address != address or polled.task.done():
                if polled is not None:
                    polled.task.cancel()
                seen_at = polled.at if polled else 0.0
                task = asyncio.create_task(self._poll(namespace, known, name, address))
                known.pods[name] = _Pod(address, task, at=seen_at)

    async def _poll(self, namespace: str, known: _Namespace, name: str, address: str) -> None:
        secret = self._token(namespace)
        token, asked, incarnation = "", frozenset[str](), ""
        while True:
            interested = frozenset(known.interested.values())
            seen = token if interested == asked else ""
            try:
                poll = self._question(namespace, known, f"{name}/{incarnation}", seen)
                state = await self._agents.ask(address, secret, poll)
                if state.pod != name:
                    raise AgentError(f"{address} is {state.pod}, not {name}")
                self._take(namespace, known, state, told_all=not seen, is_same=state.incarnation == incarnation)
            except AgentError as error:
                POLLS.labels("failed").inc()
                log.debug("A gateway pod did not answer", namespace=namespace, error=str(error))
                await asyncio.sleep(WAIT_SECONDS / 2)
                continue
            except Exception:  # an answer that cannot be taken in must not end the polls of its pod
                POLLS.labels("bug").inc()
                log.exception("A gateway pod's answer could not be taken in", namespace=namespace)
                await asyncio.sleep(WAIT_SECONDS)
                continue
            POLLS.labels("answered").inc()
            token, asked, incarnation = state.token, interested, state.incarnation

    def _take(self, namespace: str, known: _Namespace, state: GatewayState, told_all: bool, is_same: bool) -> None:
        """Takes an answer in: all of the pod's programs, or what changed; `is_same`: of the incarnation before."""
        pod = known.pods[state.pod]
        told = pod.state.programs if pod.state else {}
        # A pod that was silent for long is heard for the first time.
        before = told if is_same and _now() - pod.at < FRESH_SECONDS else {}
        pod.state = replace(state, programs={**({} if told_all else told), **state.programs})
        pod.at = _now() - max(0.0, state.counts_age_seconds)
        for uid, told_of in state.programs.items():
            if told_of.users is not None:
                known.take_users(uid, state.pod, told_of.users)
        for program, uid in list(known.interested.items()):
            if uid in pod.state.programs and (uid in state.programs or uid not in before):
                self._wake(namespace, program, news_of(before.get(uid), pod.state.programs[uid]))

    def _question(self, namespace: str, known: _Namespace, series: str, seen: str) -> Poll:
        programs = {uid: self._interest(namespace, program, series) for program, uid in known.interested.items()}
        for uid, sample in known.samples.items():
            if uid in programs:
                programs[uid] = replace(programs[uid], heard_of_users=sample.heard(series.partition("/")[0]))
        return Poll(programs, seen, WAIT_SECONDS)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_gateway(pod: Object) -> bool:
    """True for a pod of our own Deployment: by its owner, not by a label that others may set."""
    owners = pod["metadata"].get("ownerReferences", ())
    return any(owner["kind"] == "ReplicaSet" and _GATEWAY_SET.match(owner["name"]) for owner in owners)


def _carries(pod: Object) -> bool:
    """True for a pod that is Ready or Terminating: one that may have traffic."""
    ends_at = pod["metadata"].get("deletionTimestamp")
    if ends_at is None:
        return is_ready(pod)
    # The timestamp includes the grace: a pod that is there for longer is on a node that is gone.
    return (datetime.now(UTC) - datetime.fromisoformat(ends_at.replace("Z", "+00:00"))).total_seconds() < GONE_SECONDS
