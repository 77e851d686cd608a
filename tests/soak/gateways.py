"""The kubelet of gateway pods: for each a real agent and a real Envoy, bound to the pod's own address."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import click
import yaml

from dev.cluster.pretended.control_plane import ControlPlane
from dspy_contract.routes import GATEWAY_NAME, STATE_PORT
from dspy_gateway.admin import Admin
from dspy_kube.client import Kube, Object

ENVOY = Path(sysconfig.get_path("scripts")) / "envoy"
SECRET = "/api/v1/namespaces/{}/secrets/" + GATEWAY_NAME
LOOK_SECONDS = 0.1
RESTART_SECONDS = 1.0


class Gateway:
    """One pod's processes. Whichever ends is started again, as a kubelet does."""

    def __init__(self, plane: ControlPlane, kube: Kube, pod: Object) -> None:
        self.namespace, self.address = pod["metadata"]["namespace"], pod["status"]["podIP"]
        self.folder = plane.folder / pod["metadata"]["uid"][:8]
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self._name = pod["metadata"]["name"]
        self._plane = plane
        self._kube = kube
        self._tasks = [asyncio.create_task(self._run())]

    def kill(self, chance: random.Random) -> None:
        """Kills the agent or Envoy without warning."""
        running = [each for each in self.processes.values() if each.returncode is None]
        if running:
            chance.choice(running).kill()

    async def statistics(self) -> int:
        """How many Envoy keeps."""
        admin = Admin(self.folder / "admin.sock")
        try:
            return len((await admin.json("/stats?format=json"))["stats"])
        finally:
            await admin.close()

    async def end(self) -> None:
        """Ends both, as with the pod."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _run(self) -> None:
        try:
            await self._start()
        except Exception as error:
            click.echo(f"the gateway {self._name} cannot be started: {error!r}")
            raise

    async def _start(self) -> None:
        variables = await self._prepare()
        self._tasks.append(
            asyncio.create_task(self._keep("agent", [sys.executable, "-m", "dspy_gateway", "agent"], variables))
        )
        await self._wait_for_agent()
        flags = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
        await self._keep("envoy", [str(ENVOY), "-c", str(self.folder / "bootstrap.yaml"), *flags], variables)

    async def _prepare(self) -> Mapping[str, str]:
        """What the pod's volumes and environment hold, with the rights of the gateway's own service account."""
        self.folder.mkdir()
        secret = await self._kube.request("GET", SECRET.format(self.namespace))
        token_file, kubeconfig = self.folder / "token", self.folder / "kubeconfig"
        token_file.write_bytes(base64.b64decode(secret["data"]["token"]))
        arguments = ["create", "token", GATEWAY_NAME, "-n", self.namespace, "--duration=24h"]
        token = (await asyncio.to_thread(self._plane.kubectl, *arguments)).strip()
        access = yaml.safe_load(self._plane.layout.kubeconfig.read_text())
        access["users"][0]["user"] = {"token": token}
        kubeconfig.write_text(yaml.safe_dump(access))
        return {
            "KUBECONFIG": str(kubeconfig),
            "DSPY_GATEWAY_POD": self._name,
            "DSPY_GATEWAY_NAMESPACE": self.namespace,
            "DSPY_GATEWAY_FOLDER": str(self.folder),
            "DSPY_GATEWAY_TOKEN_FILE": str(token_file),
            "DSPY_GATEWAY_ADDRESS": self.address,
        }

    async def _keep(self, name: str, command: list[str], variables: Mapping[str, str]) -> None:
        environment = {**os.environ, **variables}
        while True:
            with (self.folder / f"{name}.log").open("ab") as log:
                process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment)
            self.processes[name] = process
            await process.wait()
            await asyncio.sleep(RESTART_SECONDS)

    async def _wait_for_agent(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"http://{self.address}:{STATE_PORT}/startz") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(LOOK_SECONDS)


class Gateways:
    """What a watch tells of gateway pods."""

    def __init__(self, plane: ControlPlane, kube: Kube) -> None:
        self.pods: dict[str, Gateway] = {}
        """By the pod's uid."""
        self._plane = plane
        self._kube = kube
        self._ending: set[asyncio.Task[None]] = set()

    def put(self, item: Object, listed_at: str = "") -> None:
        """A pod is there, or is being deleted."""
        if item["metadata"].get("deletionTimestamp"):
            self.forget(item)
        elif item.get("status", {}).get("podIP") and item["metadata"]["uid"] not in self.pods:
            self.pods[item["metadata"]["uid"]] = Gateway(self._plane, self._kube, item)

    def forget(self, item: Object) -> None:
        """A pod went."""
        gateway = self.pods.pop(item["metadata"]["uid"], None)
        if gateway is not None:
            task = asyncio.create_task(gateway.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def retain(self, found: object, version: str) -> None:
        """Nothing: events tell of each."""

    def of(self, namespace: str) -> list[Gateway]:
        """The gateways of a namespace."""
        return [each for each in self.pods.values() if each.namespace == namespace]
