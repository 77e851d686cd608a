"""Polls the gateway pods of namespaces in which something moves. A poll waits at the agent for the next failure or
confirmation, so news arrives at once and silence costs one request a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import aiohttp
from prometheus_client import Counter

from dspy_contract.logs import Logger
from dspy_contract.routes import STATE_PORT
from dspy_contract.state import GatewayState, Interest, Poll, dump_poll, load_state
from dspy_kube.client import UNREACHABLE, ApiException, Object

WAIT_SECONDS = 1.0
ANSWER_SECONDS = 3.0
PODS_SECONDS = 1.0
"""How often the list of gateway pods is read."""

FRESH_SECONDS = 4.0
"""An answer that is older counts as none."""

POLLS = Counter("dspy_operator_gateway_polls", "Polls of gateway pods.", ["result"])
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


class Poller:
    """Knows the latest state of every gateway pod in the namespaces of interest."""

    def __init__(
        self,
        pods: Callable[[str], Awaitable[list[Object]]],
        wake: Callable[[str, str], None],
        token: Callable[[str], str],
    ) -> None:
        self._list_pods = pods
        self._wake = wake
        self._token = token
        self._namespaces: dict[str, _Namespace] = {}
        self._session: aiohttp.ClientSession | None = None

    def follow(self, namespace: str, program: str, uid: str | None) -> None:
        """Begins (with a uid) or ends the interest of a program in its namespace's gateways."""
        known = self._namespaces.setdefault(namespace, _Namespace())
        if uid is not None:
            known.interested[program] = uid
            if known.task is None:
                known.task = asyncio.create_task(self._follow(namespace, known))
        else:
            known.interested.pop(program, None)
            if not known.interested:
                self._drop(namespace)

    def latest(self, namespace: str) -> tuple[frozenset[str], dict[str, GatewayState]]:
        """The pods that carry traffic, and what those that answer said last."""
        known = self._namespaces.get(namespace)
        if known is None:
            return frozenset(), {}
        fresh = {
            name: pod
            for name, pod in known.pods.items()
            if pod.state is not None and time.monotonic() - pod.at < FRESH_SECONDS
        }
        return known.carrying, {name: pod.state for name, pod in fresh.items() if pod.state is not None}

    async def close(self) -> None:
        """Ends every poll."""
        for namespace in list(self._namespaces):
            self._drop(namespace)
        if self._session is not None:
            await self._session.close()

    def _drop(self, namespace: str) -> None:
        known = self._namespaces.pop(namespace)
        for task in [known.task, *(pod.task for pod in known.pods.values())]:
            if task is not None:
                task.cancel()

    async def _follow(self, namespace: str, known: _Namespace) -> None:
        """Keeps one poll running for every gateway pod that has an address."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=1.0))
        while True:
            try:
                pods = await self._list_pods(namespace)
            except (ApiException, ValueError, KeyError, *UNREACHABLE):
                await asyncio.sleep(PODS_SECONDS)
                continue
            running = {pod["metadata"]["name"]: pod for pod in pods if pod.get("status", {}).get("podIP")}
            known.carrying = frozenset(name for name, pod in running.items() if _carries(pod))
            for name in known.pods.keys() - running.keys():
                known.pods.pop(name).task.cancel()
            for name, pod in running.items():
                address, polled = pod["status"]["podIP"], known.pods.get(name)
                if polled is not None and (polled.address != address or polled.task.done()):
                    polled.task.cancel()
                    polled = None
                if polled is None:
                    known.pods[name] = _Pod(address, asyncio.create_task(self._poll(namespace, known, name, address)))
            await asyncio.sleep(PODS_SECONDS)

    async def _poll(self, namespace: str, known: _Namespace, name: str, address: str) -> None:
        assert self._session is not None
        host = f"[{address}]" if ":" in address else address
        url, headers = f"http://{host}:{STATE_PORT}/state", {"Authorization": f"Bearer {self._token(namespace)}"}
        token, asked = "", frozenset[str]()
        while True:
            interested = frozenset(known.interested.values())
            poll = Poll({uid: Interest() for uid in interested}, token if interested == asked else "", WAIT_SECONDS)
            try:
                async with self._session.post(url, data=dump_poll(poll), headers=headers) as response:
                    response.raise_for_status()
                    state = load_state(await response.read())
                if state.pod != name:
                    raise ValueError(f"{address} is {state.pod}")
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                POLLS.labels("failed").inc()
                await asyncio.sleep(WAIT_SECONDS / 2)
                continue
            POLLS.labels("answered").inc()
            pod = known.pods[name]
            before = pod.state.programs if pod.state and interested == asked and poll.seen else {}
            pod.state, pod.at = replace(state, programs={**before, **state.programs}), time.monotonic()
            token, asked = state.token, interested
            for program, uid in known.interested.items():
                if uid in state.programs:
                    self._wake(namespace, program)


def _carries(pod: Object) -> bool:
    """True for a pod that is Ready or Terminating: one that may have traffic."""
    conditions = pod["status"].get("conditions") or ()
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return ready or bool(pod["metadata"].get("deletionTimestamp"))
