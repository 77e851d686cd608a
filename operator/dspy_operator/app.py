"""Puts the parts together and runs them until SIGTERM: kopf, the queue, the poller, and the operator's own page."""

from __future__ import annotations

import asyncio
import functools
import random
import signal
import time

import kopf
from kopf._core.engines.peering import Identity

from dspy_contract.garbage import pause_collection, resume_collection
from dspy_contract.logs import Logger
from dspy_kube.client import UNREACHABLE, ApiException, Kube, configuration
from dspy_kube.lease import Lease
from dspy_kube.watch import LOST, Watch
from dspy_operator import gateway_tokens, handlers
from dspy_operator.agent_client import AgentClient
from dspy_operator.api.names import API_VERSION, FIELD_MANAGER
from dspy_operator.page import serve_page
from dspy_operator.parts import Parts, assemble
from dspy_operator.preview_client import PreviewClient
from dspy_operator.registry.mlflow import Registry
from dspy_operator.runtime_client import RuntimeClient
from dspy_operator.settings import Settings
from dspy_operator.workqueue import Key

GUARDED = ("ConfigMap", "Pod")
"""What the guard sees: routes, and the gateways' pods."""

SILENT_SECONDS = 150.0
"""Bookmarks come every minute; a watch that is silent for this long is dead."""

log = Logger(__name__)


async def run(settings: Settings) -> None:
    """Runs the operator while it leads. Raises whatever ended it other than a signal."""
    kube = await Kube.connect()
    await _wait_for_resources(kube)
    key = await gateway_tokens.load_key(kube, settings.pod_namespace)
    lease = Lease(kube, settings.pod_namespace, FIELD_MANAGER, settings.identity)
    registries = {name: Registry(each) for name, each in settings.registries.items()}
    runtimes, previews = RuntimeClient(), PreviewClient()
    parts = assemble(
        kube,
        registries,
        AgentClient(),
        runtimes,
        previews,
        settings,
        functools.partial(gateway_tokens.token, key),
        lease.held,
    )
    page = await serve_page(settings, parts.controller)
    await lease.acquire()
    parts.controller.worked_at = time.time()
    # Tasks that start before kopf are not ended by kopf.
    tasks = [
        asyncio.create_task(lease.keep()),
        asyncio.create_task(_guard_first(parts, settings)),
        asyncio.create_task(_silent(parts)),
        *(asyncio.create_task(_follow(parts, kind, watch)) for kind, watch in parts.children.items()),
        asyncio.create_task(_list_resources(parts, settings)),
    ]
    try:
        await _run_kopf(settings, parts, tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await parts.poller.close()
        await lease.release()
        await page.cleanup()
        await parts.follower.close()
        await parts.beside.close()
        await parts.notifier.close()
        parts.write_backs.close()
        await runtimes.close()
        await previews.close()
        await kube.close()


async def _follow(parts: Parts, kind: str, watch: Watch) -> None:
    """Follows one kind of children; what the guard needs to see is listed before all others."""
    if kind not in GUARDED:
        await _guard_sees(parts)
    await watch.run()


async def _guard_sees(parts: Parts) -> None:
    await asyncio.gather(*(parts.children[kind].listed.wait() for kind in GUARDED))


async def _guard_first(parts: Parts, settings: Settings) -> None:
    """The guard looks as soon as routes and gateway pods are listed; passes begin once everything is."""
    pause_collection()
    await _guard_sees(parts)
    async with asyncio.TaskGroup() as group:
        group.create_task(parts.looks.run(settings.guard_workers))
        watches = (*parts.children.values(), *parts.resources.values())
        await asyncio.gather(*(watch.listed.wait() for watch in watches))
        resume_collection()
        group.create_task(parts.passes.run(settings.workers))


async def _silent(parts: Parts) -> None:
    """Ends the process when a watch has been silent for too long: it may have missed anything."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        await asyncio.sleep(SILENT_SECONDS / 10)
        for kind, watch in parts.children.items():
            if loop.time() - max(watch.heard_at, began) > SILENT_SECONDS:
                raise TimeoutError(f"the watch of {kind} has been silent for {SILENT_SECONDS:.0f} s")


async def _run_kopf(settings: Settings, parts: Parts, tasks: list[asyncio.Task[None]]) -> None:
    stop, ready = asyncio.Event(), asyncio.Event()
    operator = asyncio.create_task(
        kopf.operator(
            registry=handlers.registry(parts.take, configuration),
            settings=handlers.settings(),
            clusterwide=settings.namespace is None,
            namespaces=[settings.namespace] if settings.namespace else (),
            standalone=True,
            identity=Identity(FIELD_MANAGER),
            stop_flag=stop,
            ready_flag=ready,
        )
    )
    started = asyncio.create_task(ready.wait())
    await asyncio.wait({operator, started}, return_when=asyncio.FIRST_COMPLETED)
    started.cancel()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    done, _ = await asyncio.wait({operator, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    if operator not in done:
        await operator
    for task in done:
        task.result()


async def _wait_for_resources(kube: Kube) -> None:
    """Waits until the CRDs are installed: kopf would never notice kinds that come later."""
    while True:
        try:
            await kube.request("GET", f"/apis/{API_VERSION}")
        except ApiException as error:
            log.warning("The CRDs are not installed yet: kubectl apply --server-side -k crds", status=error.status)
        except UNREACHABLE as error:
            log.warning("The API server does not answer yet", error=type(error).__name__)
        else:
            return
        await asyncio.sleep(1)


async def _list_resources(parts: Parts, settings: Settings) -> None:
    """Lists the custom resources before the first pass, and now and then: kopf tells of no deletion that it missed.

    Each time every program has another pass over the store, and every gateway, spread over the time until the next.
    """
    while True:
        try:
            for watch in parts.resources.values():
                await watch.list()
        except LOST as error:
            log.warning("The custom resources could not be listed", error=type(error).__name__)
            await asyncio.sleep(1)
            continue
        keys = {Key("program", *name) for name in parts.store.names("DSPyProgram")}
        if not keys:
            parts.controller.worked_at = time.time()
        for key in sorted(keys | {Key("gateway", each.namespace) for each in keys}):
            parts.passes.add_after(key, random.uniform(0, settings.resync_seconds))
        await asyncio.sleep(settings.resync_seconds)
