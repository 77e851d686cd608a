"""Users who are drawn once, with a real Envoy: they stay where they are, known or anonymous, and are counted once."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from dspy_contract.routes import ReleaseRef, Users
from dspy_contract.state import Interest, Met
from dspy_gateway.resources import DesiredState
from tests.integration.gateway import Gateway, Upstream, free_port, inputs_of, running_gateway, until, weighted

UID = "0b5c6d7e-0000-4000-8000-000000000001"
BOTH = Users(header="x-user-id", cookie="dspy-user", cookie_seconds=3600, start=9_000)
MANY = 2_000
Drawn = dict[str, set[str]]


@pytest.fixture
async def upstreams() -> AsyncIterator[dict[str, Upstream]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Upstream(name).running()) for name in ("old", "new")}


def drawing(upstreams: Mapping[str, Upstream], users: Users, candidate: int, port: int) -> DesiredState:
    inputs = inputs_of(UID, 1, {"old": 10_000 - candidate, "new": candidate}, upstreams, port)
    release = ReleaseRef(1, "old", ("new",))
    return inputs.with_routes(replace(inputs.routes[UID], serial=2, release=release, users=users))


async def ask_users(gateway: Gateway, users: range, times: int = 1, path: str = "/predict") -> Drawn:
    """Which revisions each user was answered by."""
    drawn: Drawn = defaultdict(set)
    left = iter([str(user) for user in users] * times)

    async def client(session: aiohttp.ClientSession) -> None:
        for user in left:
            async with session.post(gateway.url(UID, path), json={}, headers={"x-user-id": user}) as response:
                assert response.status == 200
                drawn[user].add(response.headers["x-dspy-revision"])

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(16)))
    return drawn


def of(drawn: Drawn, revision: str) -> set[str]:
    assert all(len(revisions) == 1 for revisions in drawn.values()), "nobody changes"
    return {user for user, revisions in drawn.items() if revisions == {revision}}


def met(gateway: Gateway) -> tuple[Met, ...]:
    log = gateway.agent.state({UID: Interest()}).programs[UID].users
    return log.met if log else ()


async def test_a_user_is_drawn_once(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    """A tenth of the users; whoever has the candidate keeps it while its weight grows, at every gateway, and through
    its restart."""
    async with running_gateway(tmp_path, drawing(upstreams, BOTH, 1_000, free_port())) as gateway:
        await gateway.guarded(UID, 1, "new")
        drawn = await ask_users(gateway, range(MANY), 2)
        tenth = of(drawn, "new")
        assert 0.06 * MANY < len(tenth) < 0.14 * MANY
        others = await ask_users(gateway, range(MANY), path="/schema")
        assert of(others, "new") == tenth, "all of their requests go there"

        await gateway.kill_envoy()
        await gateway.stop_agent()
        await gateway.start_agent()
        await gateway.start_envoy()
        await gateway.confirmed()
        await gateway.guarded(UID, 1, "new")
        assert of(await ask_users(gateway, range(MANY)), "new") == tenth

        await gateway.serve(weighted(gateway.agent.desired, UID, {"old": 5_000, "new": 5_000}))
        await gateway.guarded(UID, 1, "new")
        half = of(await ask_users(gateway, range(MANY)), "new")
        assert tenth < half
        assert 0.45 * MANY < len(half) < 0.55 * MANY

    (tmp_path / "second").mkdir()
    async with running_gateway(tmp_path / "second", drawing(upstreams, BOTH, 1_000, free_port())) as second:
        await second.guarded(UID, 1, "new")
        assert of(await ask_users(second, range(MANY)), "new") == tenth
    (tmp_path / "third").mkdir()
    another = replace(BOTH, start=2_000)
    async with running_gateway(tmp_path / "third", drawing(upstreams, another, 1_000, free_port())) as third:
        await third.guarded(UID, 1, "new")
        assert not of(await ask_users(third, range(MANY)), "new") & tenth, "another release begins with other users"


async def test_of_several_candidates_nobody_moves_when_another_goes(tmp_path: Path) -> None:
    """Whose users are stable's then, and whose log says among whom each user was drawn."""
    async with AsyncExitStack() as stack:
        names = ("old", "new", "third")
        upstreams = {name: await stack.enter_async_context(Upstream(name).running()) for name in names}
        inputs = inputs_of(UID, 1, {"old": 4_000, "new": 3_000, "third": 3_000}, upstreams, free_port())
        release, users = ReleaseRef(1, "old", ("new", "third")), replace(BOTH, starts=(("third", 2_000),))
        inputs = inputs.with_routes(replace(inputs.routes[UID], serial=2, release=release, users=users))
        gateway = await stack.enter_async_context(running_gateway(tmp_path, inputs))
        await gateway.guarded(UID, 1, "third")
        before = await ask_users(gateway, range(MANY))
        assert all(0.25 * MANY < len(of(before, each)) < 0.35 * MANY for each in ("new", "third"))
        await until(lambda: len(met(gateway)) >= MANY, "every user is heard of")
        assert all(event.weights == {"old": 4_000, "new": 3_000, "third": 3_000} for event in met(gateway))
        await gateway.serve(weighted(gateway.agent.desired, UID, {"old": 7_000, "new": 3_000, "third": 0}))
        await gateway.guarded(UID, 1, "new")
        after = await ask_users(gateway, range(MANY))
        assert of(after, "new") == of(before, "new")
        assert of(after, "old") == of(before, "old") | of(before, "third")


async def test_an_anonymous_user_gets_a_cookie_and_stays(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    async with running_gateway(tmp_path, drawing(upstreams, BOTH, 5_000, free_port())) as gateway:
        await gateway.guarded(UID, 1, "new")
        first: Counter[str] = Counter()
        for number in range(60):
            # A cookie of the program's own must not hide it, nor be hidden.
            headers = {"cookie": "session=1"} if number % 2 else {}
            async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
                revisions = []
                for _ in range(4):
                    async with session.post(gateway.url(UID), json={}, headers=headers) as response:
                        revisions.append(response.headers["x-dspy-revision"])
                        told = response.headers.getall("set-cookie", [])
                        assert len(told) == (len(revisions) == 1), "it is set once"
            assert len(set(revisions)) == 1, "the first request is where the others are"
            first[revisions[0]] += 1
        assert 10 < first["new"] < 50


async def test_who_tells_nothing_is_drawn_for_each_request(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    by_header = Users(header="x-user-id")
    async with running_gateway(tmp_path, drawing(upstreams, by_header, 5_000, free_port())) as gateway:
        await gateway.guarded(UID, 1, "new")
        async with aiohttp.ClientSession() as session:
            revisions = set()
            for _ in range(60):
                async with session.post(gateway.url(UID), json={}) as response:
                    revisions.add(response.headers["x-dspy-revision"])
                    assert "set-cookie" not in response.headers
        assert revisions == {"old", "new"}
        counted = await gateway.counted(UID)
        assert set(counted) == {"old", "new"}
        assert met(gateway) == ()


@pytest.mark.parametrize(
    ("measure", "said", "value", "unfit"),
    [("tokens", "120", 120.0, None), ("cost", "1500000", 0.0015, "a lot"), ("score", "0.75", 0.75, "1.5")],
)
async def test_what_answers_to_a_user_measure_is_summed(
    tmp_path: Path, upstreams: dict[str, Upstream], measure: str, said: str, value: float, unfit: str | None
) -> None:
    """Where that is what users are compared by; an answer that tells nothing fit is passed over."""
    users = replace(BOTH, measure=measure)
    async with running_gateway(tmp_path, drawing(upstreams, users, 5_000, free_port())) as gateway:
        await gateway.guarded(UID, 1, "new")
        for upstream in upstreams.values():
            setattr(upstream, measure, unfit or "")
        await ask_users(gateway, range(1), 2 if unfit else 0)
        for upstream in upstreams.values():
            setattr(upstream, measure, said)
        await ask_users(gateway, range(1), 5)
        wanted = [(number, round(number * value, 9)) for number in (1, 2, 4)]
        await until(
            lambda: [(each.measured, round(each.measure, 9)) for each in met(gateway) if each.measured] == wanted,
            f"{measure} is summed",
        )


async def test_what_users_meet_is_told_once(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    """By hashes that tell nothing of them: the first answer of each kind, with the weight that drew it."""
    async with running_gateway(tmp_path, drawing(upstreams, BOTH, 5_000, free_port())) as gateway:
        await gateway.guarded(UID, 1, "new")
        drawn = await ask_users(gateway, range(40), 3)

        await until(lambda: len(met(gateway)) >= 40, "every user is heard of")
        upstreams["new"].status, upstreams["new"].outcome = 500, "program_error"
        assert all(event.outcome == "ok" for event in met(gateway))
        before = met(gateway)
        async with aiohttp.ClientSession() as session:
            for user in sorted(of(drawn, "new"))[:3] * 2:
                async with session.post(gateway.url(UID), json={}, headers={"x-user-id": user}) as response:
                    assert response.status == 500
        await until(lambda: len(met(gateway)) >= len(before) + 3, "their failures are told")
        new = met(gateway)[len(before) :]
        assert Counter((event.revision, event.outcome, event.weight) for event in new) == {
            ("new", "program_error", 5_000): 3
        }
        assert len({event.user for event in met(gateway)}) == 40
        counted = await gateway.counted(UID)
        assert counted["new/users"].outcomes["program_error"] == 6
        assert "new" not in counted
