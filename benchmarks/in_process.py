"""`python -m benchmarks.in_process MODEL BASE REQUESTS AT_ONCE`: the CPU of a program called where it is loaded,
in ms a request: the same calls by plain `dspy.LM`, without any server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.runtime import FIELDS
from dspy_contract.garbage import collect_rarely
from dspy_runtime.load import load_program
from tests.integration.runtime import KEY


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("base")
@click.argument("requests", type=int)
@click.argument("at_once", type=int)
def main(model: Path, base: str, requests: int, at_once: int) -> None:
    """Prints the CPU of one request, of a process that does nothing else."""
    import dspy

    collect_rarely()  # as the runtime does
    program = load_program(model).program
    dspy.configure(lm=dspy.LM("openai/standin", api_base=base, api_key=KEY, cache=False), disable_history=True)
    click.echo(asyncio.run(_measured(program, requests, at_once)))


async def _measured(program: Any, requests: int, at_once: int) -> float:
    await _calls(program, at_once * 10, at_once)
    before = time.process_time()
    await _calls(program, requests, at_once)
    return (time.process_time() - before) * 1000 / requests


async def _calls(program: Any, requests: int, at_once: int) -> None:
    left = iter(range(requests))

    async def caller() -> None:
        for _ in left:
            await program.acall(**FIELDS)

    await asyncio.gather(*(caller() for _ in range(at_once)))


if __name__ == "__main__":
    main()
