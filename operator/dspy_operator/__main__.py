"""`dspy-operator`: runs the operator in a cluster, or from a laptop with a kubeconfig."""

from __future__ import annotations

import asyncio
import logging
import sys

import click

from dspy_contract import logs
from dspy_contract.garbage import collect_rarely
from dspy_contract.logs import Logger
from dspy_operator.app import run
from dspy_operator.settings import Settings


@click.command()
@click.option("--namespace", help="Watch this namespace only.  [default: all]")
def main(namespace: str | None) -> None:
    """Runs the operator. Settings come from DSPY_OPERATOR_* variables; KUBECONFIG names the cluster outside of one."""
    settings = Settings(**({"namespace": namespace} if namespace else {}))  # type: ignore[arg-type]
    logs.configure(settings.log_level)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    collect_rarely()
    try:
        asyncio.run(run(settings))
    except Exception:
        Logger(__name__).exception("The operator ended")
        sys.exit(1)


if __name__ == "__main__":
    main()
