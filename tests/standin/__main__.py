"""`python -m tests.standin`: runs the stand-in LM provider."""

from __future__ import annotations

import click
from aiohttp import web

from tests.standin.server import Provider


@click.command()
@click.option("--host", default="0.0.0.0", show_default=True)
@click.option("--port", default=8000, show_default=True)
def main(host: str, port: int) -> None:
    """An OpenAI-compatible provider at /v1; PUT /settings changes latency, errors and answers."""
    web.run_app(Provider().application(), host=host, port=port, access_log=None)


if __name__ == "__main__":
    main()
