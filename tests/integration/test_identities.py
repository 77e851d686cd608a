"""Without a key, the three clouds' providers are called with the pod's identity: each cloud's own exchange, at a server
that speaks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import dspy
import pytest
from aiohttp import web

from dev.standin.providers import ROWS, Row
from dspy_runtime.lm.endpoint import Unobserved
from dspy_runtime.lm.models import LanguageModel
from dspy_runtime.settings import LMSettings
from tests.integration.gateway import free_port
from tests.integration.runtime import running_provider

POD_TOKEN, ISSUED = "the-pod's-own-token", "issued-by-the-cloud"
CLOUDS = {"azure": "azure", "azure_anthropic": "azure", "vertex": "google", "bedrock": "aws"}
BY_IDENTITY = [row for row in ROWS if row.provider in CLOUDS or row.provider in ("bedrock_chat", "bedrock_anthropic")]


@dataclass
class Clouds:
    """A server that is all three clouds' issuer of identities."""

    port: int
    asked: list[str]

    async def azure(self, request: web.Request) -> web.Response:
        """Entra's exchange of a federated token."""
        form = await request.post()
        assert (form["client_assertion"], form["client_id"]) == (POD_TOKEN, "client")
        return self._issued("azure", access_token=ISSUED, expires_in="3600", token_type="Bearer")

    async def google(self, request: web.Request) -> web.Response:
        """The metadata server of a node."""
        assert request.headers["Metadata-Flavor"] == "Google"
        return self._issued("google", access_token=ISSUED, expires_in=3600, token_type="Bearer")

    async def aws(self, request: web.Request) -> web.Response:
        """The agent of EKS Pod Identity."""
        assert request.headers["Authorization"] == POD_TOKEN
        ends = "2099-01-01T00:00:00Z"
        return self._issued("aws", AccessKeyId="ASIAPOD", SecretAccessKey="secret", Token=ISSUED, Expiration=ends)

    def _issued(self, cloud: str, **content: object) -> web.Response:
        self.asked.append(cloud)
        return web.json_response(content)


@pytest.fixture
async def clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clouds]:
    clouds = Clouds(free_port(), [])
    app = web.Application()
    app.add_routes(
        [
            web.post("/tenant/oauth2/v2.0/token", clouds.azure),
            web.get("/computeMetadata/v1/instance/service-accounts/default/token", clouds.google),
            web.get("/v1/credentials", clouds.aws),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", clouds.port).start()
    token = tmp_path / "token"
    token.write_text(POD_TOKEN)
    at = f"http://127.0.0.1:{clouds.port}"
    for name, value in {
        "HOME": str(tmp_path),
        "AZURE_AUTHORITY_HOST": at,
        "AZURE_TENANT_ID": "tenant",
        "AZURE_CLIENT_ID": "client",
        "AZURE_FEDERATED_TOKEN_FILE": str(token),
        "GCE_METADATA_HOST": f"127.0.0.1:{clouds.port}",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{at}/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    yield clouds
    await runner.cleanup()


@pytest.mark.parametrize("row", BY_IDENTITY, ids=lambda row: row.name)
async def test_a_pod_without_a_key_is_its_cloud_s_own(row: Row, clouds: Clouds) -> None:
    async with running_provider() as provider:
        provider.provider.settings.answers = {"answer": "yes"}
        base = provider.base.removesuffix("/v1") + row.base
        settings = LMSettings(**{"model": row.model, "api_base": base, "max_retries": 0, **row.settings})
        model = LanguageModel(settings, Unobserved())
        model.engine.home = asyncio.get_running_loop()
        await asyncio.to_thread(model.check)
        with dspy.context(lm=model.lm):
            answers = [await dspy.Predict("question -> answer").acall(question="?") for _ in range(2)]
        await model.engine.aclose()
        assert [each.answer for each in answers] == ["yes", "yes"]
        assert provider.provider.last is not None
        headers = {name.lower(): value for name, value in provider.provider.last.headers.items()}
    assert set(clouds.asked) == {CLOUDS.get(row.provider, "aws")}
    assert len(clouds.asked) <= 2  # once while it is checked, once for all calls
    if clouds.asked[0] == "aws":
        assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=ASIAPOD/")
        assert headers["x-amz-security-token"] == ISSUED
    else:
        assert headers["authorization"] == f"Bearer {ISSUED}"
        assert "api-key" not in headers
        assert "x-api-key" not in headers
