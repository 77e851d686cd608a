"""Steady traffic to a program, one JSON line for each answer: when it was asked and answered, by whom, and how."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp

LONGEST_ANSWER = aiohttp.ClientTimeout(total=30, connect=5)
FIRST_ANSWER = aiohttp.ClientTimeout(total=2)


async def send(url: str, rate: float, seconds: float, users: int, streams: int = 0, questions: int = 0) -> None:
    """Sends `rate` predictions a second, for that long or until standard input is closed, of so many users in turn;
    beside them so many are always open whose answers are read as they come. So many `questions` are asked, again and
    again; with 0 none is asked twice."""
    closed = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await _reachable(url)
    async with aiohttp.ClientSession(
        timeout=LONGEST_ANSWER, connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        started = time.time()
        waiting: set[asyncio.Task[None]] = set()
        cookies: dict[str, str] = {}
        open_streams = [asyncio.create_task(_stream(session, url, number, closed)) for number in range(streams)]
        sent = 0
        while (not closed.done() or seconds > 0) and (seconds <= 0 or sent < seconds * rate):
            question = sent % questions if questions else sent
            task = asyncio.create_task(_ask(session, url, question, str(sent % users) if users else "", cookies))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            sent += 1
            await asyncio.sleep(max(0.0, started + sent / rate - time.time()))
        await asyncio.gather(*waiting, *open_streams)


async def _reachable(url: str) -> None:
    """Waits until the Service's address leads to a gateway: its node learns that a moment after the Service was made.

    Until then its packets may leave the cluster, and somebody else may answer them: no connection is kept.
    """
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=FIRST_ANSWER, connector=connector) as session:
        while True:
            try:
                async with session.get(url) as response:
                    if "x-dspy-gateway" in response.headers:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.05)


async def _stream(session: aiohttp.ClientSession, url: str, number: int, closed: asyncio.Task[str]) -> None:
    while not closed.done():
        await _ask(session, url, number, "", {}, streamed=True)


async def _ask(
    session: aiohttp.ClientSession,
    url: str,
    number: int,
    user: str,
    cookies: dict[str, str],
    streamed: bool = False,
) -> None:
    line: dict[str, Any] = {"asked": time.time(), "user": user, "streamed": streamed}
    headers = {"x-user-id": user} if user else {}
    if streamed:
        headers["accept"] = "text/event-stream"
    if user in cookies:
        headers["cookie"] = cookies[user]
    try:
        async with session.post(url, json={"message": f"My bill {number} is wrong"}, headers=headers) as response:
            content = await response.read()
            told = response.headers
            if user and "set-cookie" in told:
                cookies[user] = told["set-cookie"].partition(";")[0]
            line |= {
                "status": response.status,
                "revision": told.get("x-dspy-revision", ""),
                "outcome": told.get("x-dspy-outcome", ""),
                "serial": int(told.get("x-dspy-serial", "0")),
                "gateway": told.get("x-dspy-gateway", ""),
            }
            if streamed and response.status == 200 and b"event: prediction" not in content:
                line |= {"status": 0, "error": "the stream ended without its prediction"}
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        line |= {"status": 0, "error": repr(error)}
    line["answered"] = time.time()
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
