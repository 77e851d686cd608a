"""Notifications to a real HTTP receiver: three formats, retries, and nobody who holds up anybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from dspy_operator.api.rollout import (
    Policy,
    ProgramRef,
    RolloutSpec,
    Strategy,
    StrategyType,
    Subscription,
)
from dspy_operator.domain.snapshot import Program
from dspy_operator.domain.transition import Event
from dspy_operator.notifier import Notifier
from dspy_operator.outbox import MOST_WAITING
from dspy_operator.settings import ReceiverSettings
from tests.integration.gateway import free_port, until

PROGRAM = Program("ns", "qa", "uid-1", 1, "1", None, "", {}, None)  # type: ignore[arg-type]
PROMOTED, LOWERED = Event("Promoted", "v2 is <stable> & well"), Event("CandidateLowered", "v2", warning=True)
AT = 1_800_000_000.0


def policy(*subscriptions: Subscription) -> Policy:
    spec = RolloutSpec(ProgramRef("qa"), Strategy(StrategyType.CANARY), notifications=subscriptions)
    return Policy("qa-policy", "p", "", 1, spec, {}, "1")


@dataclass
class Receiver:
    """Takes what it is told, after so many refusals."""

    url: str = ""
    refusals: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], dict[str, object]]] = field(default_factory=list)
    tries: int = 0


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()

    async def take(request: web.Request) -> web.Response:
        receiver.tries += 1
        if receiver.refusals:
            return web.Response(status=receiver.refusals.pop(0))
        headers = {name.lower(): value for name, value in request.headers.items()}
        receiver.got.append((headers, await request.json()))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    receiver.url = f"http://127.0.0.1:{port}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@asynccontextmanager
async def notifying(**receivers: ReceiverSettings) -> AsyncIterator[Notifier]:
    notifier = Notifier(receivers)
    try:
        yield notifier
    finally:
        await notifier.close()


async def told(receiver: Receiver, number: int) -> list[dict[str, object]]:
    await until(lambda: len(receiver.got) >= number, f"{number} notifications")
    return [body for _, body in receiver.got]


async def test_json() -> None:
    async with receiving() as receiver, notifying(team=ReceiverSettings(url=receiver.url)) as notifier:
        notifier.tell(PROGRAM, policy(Subscription("team")), [PROMOTED, LOWERED], AT)
        first, second = await told(receiver, 2)
    assert first == {
        "id": first["id"],
        "namespace": "ns",
        "program": "qa",
        "uid": "uid-1",
        "rollout": "qa-policy",
        "reason": "Promoted",
        "type": "Normal",
        "message": "v2 is <stable> & well",
        "time": "2027-01-15T08:00:00Z",
    }
    assert (second["reason"], second["type"]) == ("CandidateLowered", "Warning")
    assert first["id"] != second["id"]


async def test_slack_gets_its_text_escaped() -> None:
    settings = ReceiverSettings.model_validate
    async with receiving() as receiver, notifying(s=settings({"url": receiver.url, "format": "Slack"})) as notifier:
        notifier.tell(PROGRAM, policy(Subscription("s")), [PROMOTED, LOWERED], AT)
        texts = await told(receiver, 2)
    assert texts == [
        {"text": "*ns/qa* Promoted: v2 is &lt;stable&gt; &amp; well"},
        {"text": ":warning: *ns/qa* CandidateLowered: v2"},
    ]


async def test_cloud_events_in_binary_mode() -> None:
    settings = ReceiverSettings.model_validate
    async with receiving() as receiver, notifying(c=settings({"url": receiver.url, "format": "CloudEvents"})) as sends:
        sends.tell(PROGRAM, policy(Subscription("c")), [PROMOTED], AT)
        (body,) = await told(receiver, 1)
    headers = receiver.got[0][0]
    attributes = {name: value for name, value in headers.items() if name.startswith("ce-")}
    assert len(attributes.pop("ce-id")) == 32
    assert attributes == {
        "ce-specversion": "1.0",
        "ce-source": "/apis/dspy.dev/v1alpha1/namespaces/ns/dspyprograms/qa",
        "ce-type": "dev.dspy.Promoted",
        "ce-subject": "qa",
        "ce-time": "2027-01-15T08:00:00Z",
    }
    assert headers["content-type"] == "application/json"
    assert body["message"] == "v2 is <stable> & well"


async def test_who_hears_of_what() -> None:
    async with receiving() as all_of_it, receiving() as team:
        receivers = {
            "all": ReceiverSettings(url=all_of_it.url, every_program=True, reasons=["Promoted"]),
            "team": ReceiverSettings(url=team.url),
        }
        async with notifying(**receivers) as notifier:
            weight_set = Event("WeightSet", "50%")
            notifier.tell(PROGRAM, None, [weight_set, LOWERED, PROMOTED], AT)
            notifier.tell(PROGRAM, policy(Subscription("team", ("WeightSet",))), [weight_set, LOWERED], AT)
            notifier.tell(PROGRAM, policy(Subscription("team"), Subscription("nobody")), [weight_set, LOWERED], AT)
            assert [body["reason"] for body in await told(team, 2)] == ["WeightSet", "CandidateLowered"]
            assert [body["reason"] for body in await told(all_of_it, 1)] == ["Promoted"]


async def test_what_may_be_taken_later_is_sent_again_and_a_refusal_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with receiving() as receiver, notifying(team=ReceiverSettings(url=receiver.url)) as notifier:
        receiver.refusals = [503, 429]
        notifier.tell(PROGRAM, policy(Subscription("team")), [PROMOTED], AT)
        await told(receiver, 1)
        assert receiver.tries == 3
        receiver.refusals = [404]
        notifier.tell(PROGRAM, policy(Subscription("team")), [PROMOTED, LOWERED], AT)
        bodies = await told(receiver, 2)
        assert (receiver.tries, bodies[1]["reason"]) == (5, "CandidateLowered")
    assert "A notification was not taken" in caplog.text
    assert receiver.url not in caplog.text


async def test_secrets_are_read_from_files_each_time(tmp_path: Path) -> None:
    url, token = tmp_path / "url", tmp_path / "token"
    async with receiving() as receiver:
        url.write_text(f"{receiver.url}\n")
        token.write_text("one\n")
        settings = ReceiverSettings(url_file=str(url), token_file=str(token))
        async with notifying(team=settings) as notifier:
            notifier.tell(PROGRAM, policy(Subscription("team")), [PROMOTED], AT)
            await told(receiver, 1)
            token.write_text("two\n")
            notifier.tell(PROGRAM, policy(Subscription("team")), [PROMOTED], AT)
            await told(receiver, 2)
    assert [headers["authorization"] for headers, _ in receiver.got] == ["Bearer one", "Bearer two"]


async def test_a_receiver_that_is_away_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with receiving() as well:
        receivers = {
            "away": ReceiverSettings(url=f"http://127.0.0.1:{free_port()}/", every_program=True),
            "well": ReceiverSettings(url=well.url, every_program=True),
        }
        async with notifying(**receivers) as notifier:
            for _ in range(MOST_WAITING + 2):
                notifier.tell(PROGRAM, None, [PROMOTED], AT)
                await asyncio.sleep(0)
            await told(well, 100)
    assert caplog.text.count("too far behind") >= 1


@pytest.mark.parametrize("wrong", [{}, {"url": "http://a", "url_file": "/b"}, {"url": "http://a", "format": "XML"}])
def test_a_receiver_that_cannot_be_is_refused_at_the_start(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"url or url_file|format"):
        ReceiverSettings.model_validate(wrong)
