"""`python -m dev.standin`: the stand-in LM provider, its settings, and steady traffic to a program."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import click
from aiohttp import web

from dev.standin.server import Provider
from dev.standin.traffic import send


@click.group()
def main() -> None:
    """A stand-in for an LM provider, and a client that sends traffic."""


@main.command()
@click.option("--host", default="0.0.0.0", show_default=True)
@click.option("--port", default=8000, show_default=True)
def serve(host: str, port: int) -> None:
    """An OpenAI-compatible provider at /v1; PUT /settings changes latency, errors and answers."""
    web.run_app(Provider().application(), host=host, port=port, access_log=None)


@main.command("set")
@click.argument("settings")
@click.option("--url", default="http://lm:8000/settings", show_default=True)
def change(settings: str, url: str) -> None:
    """Changes a provider's settings, given as JSON, and prints all of them and what it has seen."""

    async def put() -> str:
        async with aiohttp.ClientSession() as session, session.put(url, json=json.loads(settings)) as response:
            return await response.text()

    click.echo(asyncio.run(put()))


@main.command()
@click.argument("url")
@click.option("--rate", default=20.0, show_default=True, help="Requests a second.")
@click.option("--seconds", default=0.0, help="How long; 0: until standard input is closed.")
@click.option("--users", default=0, help="Of how many users, in turn, by the header x-user-id; 0: of nobody.")
@click.option("--streams", default=0, help="How many are always open whose answers are read as they come.")
@click.option("--questions", default=0, help="How many are asked, again and again; 0: none is asked twice.")
def traffic(url: str, rate: float, seconds: float, users: int, streams: int, questions: int) -> None:
    """Sends predictions to a program and prints one JSON line for each answer."""
    asyncio.run(send(url, rate, seconds, users, streams, questions))


if __name__ == "__main__":
    main()
