"""`python -m dev.cluster`: create, load, kubectl and delete from the command line."""

from __future__ import annotations

import subprocess
import sys
import time

import click

from dev.cluster.choose import cluster
from dev.cluster.deploy import deploy
from dev.cluster.interface import ClusterError
from dev.images import builder


@click.group()
@click.option("--name", default="dspy", show_default=True, help="Name of the cluster.")
@click.pass_context
def main(context: click.Context, name: str) -> None:
    """A Kubernetes cluster on this machine, for tests and the demo."""
    context.obj = name


@main.command()
@click.pass_obj
def create(name: str) -> None:
    """Creates the cluster and puts the operator on it, with what the demo needs beside it."""
    started = time.monotonic()
    chosen = cluster(name)
    chosen.create()
    deploy(chosen)
    print(f"The cluster {name} is ready after {time.monotonic() - started:.0f} s. Talk to it with:")
    print(f"  export KUBECONFIG={chosen.kubeconfig()}")


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def kubectl(name: str, arguments: tuple[str, ...]) -> None:
    """Runs kubectl against the cluster."""
    sys.exit(subprocess.run([*cluster(name).kubectl(), *arguments]).returncode)


@main.command()
@click.pass_obj
def delete(name: str) -> None:
    """Deletes the cluster and everything it started."""
    cluster(name).delete()


@main.command()
@click.pass_obj
def prepare(name: str) -> None:
    """Builds what a cluster is made of, where the cache has it not: the node's binary, and the images."""
    cluster(name).prepare()
    for reference in builder.build().values():
        print(reference)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except ClusterError as error:
        sys.exit(f"Error: {error}")
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
