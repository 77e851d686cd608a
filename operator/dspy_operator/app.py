"""Puts the parts together and runs them until SIGTERM: kopf, the queue, the poller, and the operator's own page."""

from __future__ import annotations

import asyncio
import functools
import signal
import time

import kopf
from kopf._core.engines.peering import Identity

from dspy_contract.logs import Logger
from dspy_kube.client import UNREACHABLE, ApiException, Kube, configuration
from dspy_operator import gateway_tokens, handlers
from dspy_operator.api.names import API_VERSION, FIELD_MANAGER
from dspy_operator.gateway_poller import Poller
from dspy_operator.kube.execute import Executor
from dspy_operator.kube.observe import Observer
from dspy_operator.kube.paths import path
from dspy_operator.page import serve_page
from dspy_operator.reconcile.controller import Controller
from dspy_operator.reconcile.gateway import GatewayReconciler
from dspy_operator.reconcile.program import ProgramReconciler
from dspy_operator.registry.mlflow import Registry
from dspy_operator.settings import Settings
from dspy_operator.workqueue import Key, WorkQueue

KEEP_SHARE = 0.8
"""Share of the poll interval for which a registry's answer is kept: a wake-up never finds its own old answer."""

log = Logger(__name__)


async def run(settings: Settings) -> None:
    """Runs the operator. Raises whatever ended it other than a signal."""
    kube = await Kube.connect()
    await _wait_for_resources(kube)
    registries = {
        name: Registry(known, settings.registry_poll_seconds * KEEP_SHARE)
        for name, known in settings.registries.items()
    }
    queue = WorkQueue(lambda key: controller.work(key))
    namespace_token = functools.partial(
        gateway_tokens.token, await gateway_tokens.load_key(kube, settings.pod_namespace)
    )
    poller = Poller(
        lambda namespace: observer.gateway_pods(namespace),
        lambda namespace, name: queue.add(Key("program", namespace, name)),
        namespace_token,
    )
    executor = Executor(kube)
    gateways = GatewayReconciler(kube, executor, settings, namespace_token)
    observer = Observer(kube, registries, poller, gateways.problems, settings)
    controller = Controller(ProgramReconciler(observer, executor, poller, settings), gateways, queue.add)
    page = await serve_page(settings, controller)
    # Tasks that start before kopf are not ended by kopf.
    tasks = [
        asyncio.create_task(queue.run(settings.workers)),
        asyncio.create_task(_resync(kube, queue, controller, settings)),
    ]
    try:
        await _run_kopf(settings, queue, tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await poller.close()
        await page.cleanup()
        for registry in registries.values():
            await registry.close()
        await kube.close()


async def _run_kopf(settings: Settings, queue: WorkQueue, tasks: list[asyncio.Task[None]]) -> None:
    stop, ready = asyncio.Event(), asyncio.Event()
    operator = asyncio.create_task(
        kopf.operator(
            registry=handlers.registry(queue.add, configuration),
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


async def _resync(kube: Kube, queue: WorkQueue, controller: Controller, settings: Settings) -> None:
    """Looks at everything now and then, whatever events were lost; at start also at gateways whose programs went."""
    while True:
        try:
            programs = await kube.request("GET", path("DSPyProgram", settings.namespace))
            if not programs["items"]:
                controller.worked_at = time.time()
            for item in programs["items"]:
                namespace = item["metadata"]["namespace"]
                queue.add(Key("program", namespace, item["metadata"]["name"]))
                queue.add(Key("gateway", namespace))
        except (ApiException, *UNREACHABLE) as error:
            log.warning("The resync failed", error=type(error).__name__)
        await asyncio.sleep(settings.resync_seconds)
