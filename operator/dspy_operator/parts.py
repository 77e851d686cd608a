"""The operator's parts and how they hang together, without kopf and without a cluster of their own.

Two speeds: the guard has a queue and workers of its own, and never waits for a pass.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dspy_contract.routes import ROUTES_LABEL, program_of
from dspy_contract.state import Interest
from dspy_kube.client import Kube, Object
from dspy_kube.store import Key as StoreKey
from dspy_kube.store import Store
from dspy_kube.watch import Watch
from dspy_operator.agent_client import Agents
from dspy_operator.api.names import GATEWAY_LABEL
from dspy_operator.gateway_poller import Poller
from dspy_operator.kube.execute import Executor
from dspy_operator.kube.observe import Observer, read_routes
from dspy_operator.kube.paths import path
from dspy_operator.reconcile.controller import Controller
from dspy_operator.reconcile.gateway import GatewayReconciler
from dspy_operator.reconcile.guard import Guard
from dspy_operator.reconcile.program import ProgramReconciler
from dspy_operator.registry.mlflow import Registry
from dspy_operator.settings import Settings
from dspy_operator.workqueue import Key, WorkQueue


@dataclass
class Parts:
    """Everything that runs: two queues, the poller, the watches behind the store, and who works on passes."""

    passes: WorkQueue
    looks: WorkQueue
    poller: Poller
    watches: tuple[Watch, ...]
    controller: Controller


def assemble(
    kube: Kube,
    registries: Mapping[str, Registry],
    agents: Agents,
    settings: Settings,
    token: Callable[[str], str],
    leads: Callable[[], bool],
    clock: Callable[[], float] = time.time,
) -> Parts:
    """Puts the parts together. `leads` is true while this process holds its Lease: only then are switches renewed.

    Times are of the millisecond, as they are stored: what is read back equals what was written.
    """

    def now() -> float:
        return round(clock(), 3)

    passes = WorkQueue("passes", lambda key: controller.work(key))
    looks = WorkQueue("guard", lambda key: guard.work(key))

    def changed(key: StoreKey, item: Object | None) -> None:
        """A release that moves is polled and guarded from the moment its routes are seen, whatever else waits."""
        kind, namespace, name = key
        program = program_of(name) if kind == "ConfigMap" else None
        if program is None:
            return
        passes.add(Key("program", namespace, program))
        uid = _releasing(item)
        if uid is not None:
            poller.follow(namespace, program, uid)
            looks.add(Key("guard", namespace, program))

    def woken(namespace: str, program: str) -> None:
        looks.add(Key("guard", namespace, program))
        passes.add(Key("program", namespace, program))

    def interest(namespace: str, program: str, series: str) -> Interest:
        guarding = guard.guarding(namespace, program) if leads() else None
        return Interest(guarding, programs.kept(namespace, program).get(series, 0))

    store = Store(changed)
    poller = Poller(agents, lambda namespace: store.list("Pod", namespace), woken, token, interest)
    executor = Executor(kube, store)
    gateways = GatewayReconciler(kube, executor, settings, token)
    observer = Observer(kube, registries, poller, gateways.problems, settings)
    programs = ProgramReconciler(observer, executor, poller, settings, now)
    guard = Guard(kube, store, poller, programs.known, passes.add, now)
    controller = Controller(programs, gateways, passes.add, now)
    watches = tuple(
        Watch(
            kube,
            path(kind, settings.namespace),
            label,
            functools.partial(store.put, kind),
            functools.partial(store.forget, kind),
        )
        for kind, label in (("ConfigMap", ROUTES_LABEL), ("Pod", GATEWAY_LABEL))
    )
    return Parts(passes, looks, poller, watches, controller)


def _releasing(item: Object | None) -> str | None:
    """The program's uid while its routes name a release."""
    routes = read_routes(item)
    return routes.uid if routes and routes.release else None
