"""What a pretended cluster holds beside its control plane: the CRDs, the operator's rights as they are shipped, a real
registry with three versions of a program."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from typing import Any

import aiohttp
import yaml

from dev.cluster.deploy import SYSTEM
from dev.cluster.interface import REPOSITORY
from dev.cluster.pretended.control_plane import ControlPlane
from dev.registry import REGISTRY_PYTHON
from dspy_kube.client import Kube, Object

MODEL = "triage"
REGISTRY_PORT = 5000
LM_SECRET = "lm"


async def make_lm_secret(kube: Kube, namespace: str) -> None:
    """The Secret that programs name for their LM's key, which nobody asks for."""
    data = {"api-key": base64.b64encode(b"none").decode()}
    await kube.request(
        "POST", f"/api/v1/namespaces/{namespace}/secrets", None, {"metadata": {"name": LM_SECRET}, "data": data}
    )


def install(plane: ControlPlane) -> dict[str, str]:
    """Puts the CRDs and the operator's rights onto the cluster; returns the operator's variables."""
    shipped = yaml.safe_load_all(plane.kubectl("kustomize", str(REPOSITORY / "manifests" / "base")))
    objects = [
        each
        for each in shipped
        if each["kind"] not in ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy")
    ]
    plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    token = plane.kubectl("create", "token", "dspy-operator", "-n", SYSTEM, "--duration=24h").strip()
    access = yaml.safe_load(plane.layout.kubeconfig.read_text())
    access["users"][0]["user"] = {"token": token}
    kubeconfig = plane.folder / "operator.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(access))
    return {
        "KUBECONFIG": str(kubeconfig),
        "DSPY_OPERATOR_REGISTRIES": json.dumps({"default": {"url": f"http://127.0.0.1:{REGISTRY_PORT}"}}),
        "DSPY_OPERATOR_RUNTIME_PYTHONS": json.dumps(["3.11", "3.12", "3.13"]),
    }


async def connect(plane: ControlPlane) -> Kube:
    """A client with an administrator's rights."""
    os.environ["KUBECONFIG"] = str(plane.layout.kubeconfig)
    return await Kube.connect()


async def make_versions(plane: ControlPlane) -> list[str]:
    """A registry with three versions of a program; returns their uris."""
    url = f"http://127.0.0.1:{REGISTRY_PORT}"
    options = [
        "--port",
        str(REGISTRY_PORT),
        "--workers",
        "1",
        "--serve-artifacts",
        "--artifacts-destination",
        f"{plane.folder}/files",
    ]
    options += ["--backend-store-uri", f"sqlite:///{plane.folder}/mlflow.db"]
    server = plane.start("mlflow", [*REGISTRY_PYTHON, "-m", "mlflow", "server", *options])
    async with aiohttp.ClientSession() as session:
        while not await _answers(session, f"{url}/health"):
            assert server.poll() is None, (plane.folder / "mlflow.log").read_text()
            await asyncio.sleep(0.1)
    wanted = json.dumps([{"name": MODEL, "kind": kind} for kind in ("good", "better", "bad")])
    log = plane.start(
        "versions", [sys.executable, str(REPOSITORY / "dev/demo/log_versions.py"), wanted], {"MLFLOW_TRACKING_URI": url}
    )
    assert await asyncio.to_thread(log.wait) == 0, (plane.folder / "versions.log").read_text()
    return [f"models:/{MODEL}/{number}" for number in (1, 2, 3)]


def program(name: str, uri: str, lm_model: str) -> Object:
    """A DSPyProgram, whose LM nobody asks."""
    lm = {
        "model": lm_model,
        "apiBase": "http://127.0.0.1:1/v1",
        "credentials": {"apiKey": {"name": LM_SECRET, "key": "api-key"}},
    }
    return {
        "apiVersion": "dspy.dev/v1alpha1",
        "kind": "DSPyProgram",
        "metadata": {"name": name},
        "spec": {"model": {"uri": uri}, "lm": lm},
    }


def rollout(name: str, steps: list[dict[str, Any]], **policy: Any) -> Object:
    """The DSPyRollout of the program of that name."""
    strategy = {"type": "Canary", "canary": {"steps": steps}}
    return {
        "apiVersion": "dspy.dev/v1alpha1",
        "kind": "DSPyRollout",
        "metadata": {"name": name},
        "spec": {"programRef": {"name": name}, "strategy": strategy, **policy},
    }


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False
