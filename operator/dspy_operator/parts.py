"""The operator's parts and how they hang together, without kopf and without a cluster of their own.

Two speeds: the guard has a queue and workers of its own, and never waits for a pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dspy_contract.logs import Logger
from dspy_contract.state import Interest
from dspy_kube.client import Kube, Object
from dspy_kube.store import Store, StoreSink
from dspy_kube.watch import Watch
from dspy_operator.agent_client import Agents
from dspy_operator.descriptions import Descriptions
from dspy_operator.domain.news import News
from dspy_operator.domain.plan import MOVING_SECONDS
from dspy_operator.domain.snapshot import Revision
from dspy_operator.forgetting import Forgetting
from dspy_operator.gateway_poller import Poller
from dspy_operator.kube import cache
from dspy_operator.kube.archives import Archives
from dspy_operator.kube.beside import Beside
from dspy_operator.kube.events import emit
from dspy_operator.kube.execute import Executor
from dspy_operator.kube.observe import Observer, program_of, read_routes
from dspy_operator.kube.paths import path
from dspy_operator.kube.repairs import Repairs
from dspy_operator.kube.write import Writer
from dspy_operator.notifier import Notifier
from dspy_operator.preview_client import Previews
from dspy_operator.prometheus_queries import PrometheusQueries
from dspy_operator.reconcile.controller import Controller
from dspy_operator.reconcile.gateway import GatewayReconciler
from dspy_operator.reconcile.guard import LOOK_SECONDS, Guard
from dspy_operator.reconcile.memory import Memories
from dspy_operator.reconcile.program import ProgramReconciler
from dspy_operator.registry.follower import Follower, Source
from dspy_operator.resources.revision import version_of
from dspy_operator.runtime_client import Runtimes
from dspy_operator.settings import Settings
from dspy_operator.smoke_tests import SmokeTests
from dspy_operator.standstills import Standstills
from dspy_operator.workqueue import Key, WorkQueue
from dspy_operator.write_backs import WriteBacks

log = Logger(__name__)


@dataclass
class Parts:
    """Everything that runs: two queues, the poller, the store and what feeds it, and who works on passes."""

    passes: WorkQueue
    looks: WorkQueue
    poller: Poller
    store: Store
    children: Mapping[str, Watch]
    """Watches of our own, by kind."""
    resources: Mapping[str, Watch]
    """Of the two custom resources, for listing: kopf follows their changes, which `take` hears."""
    follower: Follower
    beside: Beside
    notifier: Notifier
    write_backs: WriteBacks
    controller: Controller

    def take(self, kind: str, event: str | None, item: Object) -> None:
        """An event of a custom resource: its kind, its type (None while kopf lists), the object."""
        if event == "DELETED":
            self.store.forget(kind, item)
        else:
            self.store.put(kind, item)


def assemble(
    kube: Kube,
    registries: Mapping[str, Source],
    agents: Agents,
    runtimes: Runtimes,
    previews: Previews,
    settings: Settings,
    token: Callable[[str], str],
    leads: Callable[[], bool],
    clock: Callable[[], float] = time.time,
) -> Parts:
    """Puts the parts together. `leads` is true while this process holds its Lease: only then it writes, and switches
    are renewed.

    Times are of the millisecond, as they are stored: what is read back equals what was written.
    """

    def now() -> float:
        return round(clock(), 3)

    passes = WorkQueue("passes", lambda key: controller.work(key))
    looks = WorkQueue("guard", lambda key: guard.work(key), LOOK_SECONDS)

    def changed(kind: str, before: Object | None, after: Object | None) -> None:
        """Wakes whom a change concerns. An object that somebody made unreadable costs its own keys only."""
        try:
            wake(kind, before, after)
        except Exception:
            log.exception("An object could not be taken in", kind=kind)

    def wake(kind: str, before: Object | None, after: Object | None) -> None:
        """A release that moves is polled and guarded from the moment its routes are seen, whatever else waits."""
        if kind == "ControllerRevision":
            archives.note(before, after)
        if after is None and before is not None:
            repairs.forget(before)
        for key in woken_keys(kind, before, after, store):
            passes.add(key)
        routes = read_routes(after) if kind == "ConfigMap" else None
        if routes is not None and routes.release and after is not None:
            namespace = after["metadata"]["namespace"]
            poller.follow(namespace, routes.program, routes.uid)
            looks.add(Key("guard", namespace, routes.program))

    def woken(namespace: str, program: str, news: News) -> None:
        if news.bad_answers:
            looks.add(Key("guard", namespace, program))
            passes.add_after(Key("program", namespace, program), MOVING_SECONDS)
        if news.obeyed or (news.answered and memories.awaits_answers(namespace, program)):
            passes.add(Key("program", namespace, program))

    def wake_program(namespace: str, program: str) -> None:
        passes.add(Key("program", namespace, program))

    def wake_asker(namespace: str, asker: str) -> None:
        wake_program(namespace, program_of(asker))

    def on_conflict(namespace: str, program: str) -> None:
        passes.add(Key("program", namespace, program) if program else Key("gateway", namespace))

    def interest(namespace: str, program: str, series: str) -> Interest:
        guarding = guard.guarding(namespace, program) if leads() else None
        return Interest(guarding, memories.kept(namespace, program).get(series, 0))

    def watch(kind: str, query: Mapping[str, str]) -> Watch:
        sink = StoreSink(store, kind)
        return Watch(kube, path(kind, settings.namespace), query, sink, bookmarks=kind != "Event")

    def archive(revision: Revision) -> bytes | None:
        source = registries.get(revision.registry)
        return source.archive(version_of(revision)) if source else None

    archives = Archives(settings.archives_budget_bytes, {"kube-system", settings.pod_namespace})
    store = Store(changed, cache.project, cache.group)
    poller = Poller(agents, lambda namespace: store.list("Pod", namespace, ""), woken, token, interest)
    writer = Writer(kube, store, on_conflict, leads)
    repairs = Repairs()
    executor = Executor(kube, store, writer, repairs, archive)
    gateways = GatewayReconciler(store, writer, settings, token)
    follower = Follower(registries, settings.registry_poll_seconds, wake_asker)
    beside = Beside(
        store,
        Descriptions(runtimes, wake_program),
        Standstills(runtimes, wake_program),
        Forgetting(runtimes, wake_program),
        SmokeTests(previews, wake_program),
        PrometheusQueries(settings.prometheus, wake_program),
    )
    observer = Observer(
        store,
        follower,
        poller,
        gateways.problems,
        writer.conflicts,
        repairs,
        archives,
        beside,
        settings,
    )
    memories = Memories()
    notifier = Notifier(settings.notifications)
    write_backs = WriteBacks(registries, settings.registries, lambda program, event: emit(kube, program, event, now()))
    programs = ProgramReconciler(
        observer,
        executor,
        writer.conflicts,
        poller,
        beside,
        notifier,
        write_backs,
        memories,
        now,
    )
    guard = Guard(kube, store, poller, memories, passes.add, leads, now)
    controller = Controller(programs, gateways, passes.add, now)
    return Parts(
        passes,
        looks,
        poller,
        store,
        {kind: watch(kind, query) for kind, query in cache.CHILDREN.items()},
        {kind: watch(kind, {}) for kind in cache.RESOURCES},
        follower,
        beside,
        notifier,
        write_backs,
        controller,
    )


def woken_keys(kind: str, before: Object | None, after: Object | None, store: Store) -> list[Key]:
    """The keys that a change of an object wakes."""
    item = after or before
    assert item is not None
    namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
    match kind:
        case "DSPyProgram":
            keys = [Key("program", namespace, name)]
            return keys if _same_wish(before, after) else [*keys, Key("gateway", namespace)]
        case "DSPyRollout":
            programs = {cache.group(kind, each) for each in (before, after) if each is not None}
            keys = [Key("program", namespace, program) for program in sorted(programs)]
            return keys if _same_wish(before, after) else [*keys, Key("gateway", namespace)]
        case "Event":
            pod = store.get("Pod", namespace, cache.group(kind, item))
            program = cache.group("Pod", pod) if pod else ""
        case _:
            program = cache.group(kind, item)
            if not program and kind != "Pod":
                return [Key("gateway", namespace)]
    return [Key("program", namespace, program)] if program else []


def _same_wish(before: Object | None, after: Object | None) -> bool:
    """True when a change of a program or rollout is of its status only, which its namespace's gateway does not care
    for."""
    if before is None or after is None:
        return False
    fields = ("generation", "deletionTimestamp", "uid")
    return all(before["metadata"].get(name) == after["metadata"].get(name) for name in fields)
