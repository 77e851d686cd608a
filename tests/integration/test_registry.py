"""A real MLflow server that asks who calls: the operator reads versions, and an init container downloads them.

The server runs in an environment of its own, as in its image: its libraries and the gateway's do not go together.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest
import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from dev.registry import REGISTRY_PYTHON
from dspy_contract.artifact import digest_of, unpack
from dspy_operator.domain.snapshot import Problem, Version
from dspy_operator.registry.mlflow import Registry
from dspy_operator.registry.uri import Identity, parse
from dspy_operator.settings import RegistrySettings
from tests.integration.gateway import free_port

PASSWORD, TOKEN = "a-long-password-123", "the-token-of-the-test"
URI = "models:/questions/1"
AUTHENTICATE = "tests.integration.registry_auth:authenticate"


@dataclass
class Server:
    """A registry, the variables of a client that may call it, and the operator's settings for it."""

    url: str
    variables: dict[str, str]
    settings: RegistrySettings


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry with one version."""
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = admin\nadmin_password = {PASSWORD}\nauthorization_function = {AUTHENTICATE}\n"
    )
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the test",
        "TEST_REGISTRY_TOKEN": TOKEN,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    options = ["--port", str(port), "--workers", "1", "--serve-artifacts", "--artifacts-destination", f"{folder}/files"]
    options += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command = [*REGISTRY_PYTHON, "-m", "mlflow", "server", "--app-name", "basic-auth", *options]
    with (folder / "log").open("w") as log:
        process = Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        _await(address, process, folder / "log")
        _log_version(address, {"MLFLOW_TRACKING_TOKEN": TOKEN})
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(params=["basic", "token"])
def server(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Server:
    """The registry, as somebody calls it with a password or a token."""
    secret = tmp_path / "secret"
    if request.param == "token":
        secret.write_text(TOKEN)
        return Server(url, {"MLFLOW_TRACKING_TOKEN": TOKEN}, RegistrySettings(url=url, token_file=str(secret)))
    secret.write_text(f"admin:{PASSWORD}")
    variables = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    return Server(url, variables, RegistrySettings(url=url, basic_auth_file=str(secret)))


@retry(retry=retry_if_exception_type(requests.ConnectionError), stop=stop_after_delay(240), wait=wait_fixed(0.2))
def _await(url: str, process: Popen[bytes], log: Path) -> None:
    assert process.poll() is None, log.read_text()
    assert requests.get(f"{url}/health", timeout=10).status_code == 200, log.read_text()


def _log_version(url: str, variables: dict[str, str]) -> None:
    """Logs and registers a program, in a process of its own: MLflow keeps its address for good."""
    program = (
        "import dspy, mlflow, mlflow.dspy\n"
        "with mlflow.start_run():\n"
        "    mlflow.dspy.log_model(dspy.Predict('question -> answer'), name='m', registered_model_name='questions',"
        " pip_requirements=['dspy==3.4.1'])\n"
    )
    environment = {**os.environ, **variables, "MLFLOW_TRACKING_URI": url}
    with Popen([*REGISTRY_PYTHON, "-W", "ignore", "-c", program], env=environment) as process:
        assert process.wait(300) == 0


async def resolved(registry: Registry) -> Version:
    identity = await registry.ask(parse(URI))
    assert isinstance(identity, Identity), identity
    version = await registry.read(identity)
    assert isinstance(version, Version), version
    return version


async def test_the_operator_reads_and_packs_a_version(server: Server) -> None:
    registry = Registry(server.settings)
    found = await resolved(registry)
    archive = registry.archive(found)
    await registry.close()
    assert archive is not None
    assert found.archive_bytes == len(archive)
    assert "MLmodel" in unpack(archive)
    assert (found.number, found.dspy) == ("1", "3.4.1")


async def test_the_operator_writes_an_alias_and_tags(server: Server) -> None:
    registry = Registry(server.settings)
    try:
        tags = {"dspy.dev/outcome": "RolledBack", "dspy.dev/reason": "FailsMoreOften"}
        assert await registry.write(URI, "production", tags) is None
        assert await registry.write(URI, "", {}) is None
        found = await registry.ask(parse("models:/questions@production"))
        assert isinstance(found, Identity)
        assert found.number == "1"
        missing = await registry.write("models:/questions/99", "production", {})
        assert isinstance(missing, Problem)
        assert missing.reason == "Invalid"
    finally:
        await registry.close()


async def test_an_operator_whom_the_registry_does_not_know_says_so(server: Server) -> None:
    registry = Registry(RegistrySettings(url=server.url))
    found = await registry.ask(parse(URI))
    await registry.close()
    assert isinstance(found, Problem)
    assert found.reason == "RegistryDenied"


@pytest.mark.parametrize("digest", ["its own", "another"])
async def test_an_init_container_downloads_what_the_revision_was_made_of(
    server: Server, digest: str, tmp_path: Path
) -> None:
    registry = Registry(server.settings)
    found = await resolved(registry)
    await registry.close()
    (tmp_path / "termination").touch()
    variables = {
        **server.variables,
        "MLFLOW_TRACKING_URI": server.url,
        "DSPY_RUNTIME_MODEL": f"models:/{found.model_id}" if found.model_id else URI,
        "DSPY_RUNTIME_DIGEST": found.digest if digest == "its own" else digest_of({}),
        "DSPY_RUNTIME_TERMINATION_LOG": str(tmp_path / "termination"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dspy_runtime.artifact", str(tmp_path / "model"), env={**os.environ, **variables}
    )
    code = await asyncio.wait_for(process.wait(), 60)
    if digest == "its own":
        assert code == 0
        assert (tmp_path / "model" / "MLmodel").is_file()
    else:
        assert code == 1
        assert "ModelChanged" in (tmp_path / "termination").read_text()
