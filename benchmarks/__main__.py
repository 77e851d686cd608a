"""`make bench`: every figure; `python -m benchmarks NAME ...` for some of them."""

from __future__ import annotations

from collections.abc import Callable

import click

from benchmarks import features, gateway, judgement, moving, programs, releases, runtime, scale, streams, switches

BENCHES: dict[str, Callable[[], None]] = {
    "runtime": runtime.main,
    "features": features.main,
    "gateway": gateway.main,
    "programs": programs.main,
    "moving": moving.main,
    "releases": releases.main,
    "switches": switches.main,
    "judgement": judgement.main,
    "streams": streams.main,
    "scale": scale.main,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHES)))
def main(names: tuple[str, ...]) -> None:
    """Runs the benches that are named, or all of them."""
    for name in names or BENCHES:
        BENCHES[name]()


if __name__ == "__main__":
    main()
