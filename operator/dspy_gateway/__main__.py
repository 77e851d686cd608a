"""`dspy-gateway`: the agent (`agent`) and the pod's preStop hook (`drain`)."""

from __future__ import annotations

import asyncio
import signal
import sys

# Before anything heavy is imported: without a handler the first process of a container ignores SIGTERM, and a pod that
# is deleted while it starts would live until its grace is over.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import click
from aiohttp import web

from dspy_contract import logs
from dspy_contract.garbage import collect_rarely
from dspy_gateway.agent import Agent
from dspy_gateway.drain import drain as drain_pod
from dspy_gateway.server import application
from dspy_gateway.settings import Settings
from dspy_gateway.watch import Watcher
from dspy_kube.client import Kube


@click.group()
def main() -> None:
    """The agent of a gateway pod: local xDS server of its Envoy. Settings come from DSPY_GATEWAY_* variables."""


@main.command()
def agent() -> None:
    """Runs the agent until SIGTERM."""
    settings = Settings()
    logs.configure(settings.log_level)
    collect_rarely()
    asyncio.run(_run(settings))


@main.command()
def drain() -> None:
    """Drains this pod's Envoy; returns when nothing is in flight."""
    asyncio.run(drain_pod(Settings()))


async def _run(settings: Settings) -> None:
    agent = Agent(settings)
    agent.prepare()
    await agent.open()
    runner = web.AppRunner(application(agent), access_log=None)
    await runner.setup()
    # None is every address of both families; asyncio would take "::" for IPv6 alone.
    await web.TCPSite(runner, None if settings.address == "::" else settings.address, settings.state_port).start()
    kube = await Kube.connect()
    tasks = [asyncio.create_task(agent.run()), asyncio.create_task(Watcher(kube, agent).run())]
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, stopped):
        task.cancel()
    await runner.cleanup()
    await agent.close()
    await kube.close()
    for task in done:
        task.result()


if __name__ == "__main__":
    main()
