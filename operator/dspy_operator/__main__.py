"""`dspy-operator`: runs the operator in a cluster, or from a laptop with a kubeconfig; prints an image's Dockerfile, or
what a release would take."""

from __future__ import annotations

import asyncio
import logging
import sys

import click

from dspy_contract import logs
from dspy_contract.garbage import collect_rarely
from dspy_contract.logs import Logger
from dspy_operator.api.reasons import Reason
from dspy_operator.app import run
from dspy_operator.domain.snapshot import Problem, Version
from dspy_operator.errors import InvalidSpecError
from dspy_operator.forecasting import plan
from dspy_operator.registry.compatibility import mismatch_of
from dspy_operator.registry.dockerfile import dockerfile
from dspy_operator.registry.mlflow import Registry
from dspy_operator.registry.uri import ModelUri, parse
from dspy_operator.settings import RegistrySettings, Settings


@click.group(invoke_without_command=True)
@click.option("--namespace", help="Watch this namespace only.  [default: all]")
@click.pass_context
def main(context: click.Context, namespace: str | None) -> None:
    """Runs the operator, unless a command is given. Settings come from DSPY_OPERATOR_* variables; KUBECONFIG names the
    cluster outside of one."""
    if context.invoked_subcommand is not None:
        return
    settings = Settings(**({"namespace": namespace} if namespace else {}))  # type: ignore[arg-type]
    logs.configure(settings.log_level)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    collect_rarely()
    try:
        asyncio.run(run(settings))
    except Exception:
        Logger(__name__).exception("The operator ended")
        sys.exit(1)


@main.command()
@click.argument("uri")
@click.option("--registry", "url", envvar="MLFLOW_TRACKING_URI", required=True, help="URL of the MLflow server.")
@click.option("--token-file", help="A file with a bearer token for it.")
@click.option("--basic-auth-file", help="A file with `user:password` for it.")
@click.option("--runtime-image", help="The runtime's image; {python} stands for the version's minor.")
def image(uri: str, url: str, token_file: str | None, basic_auth_file: str | None, runtime_image: str | None) -> None:
    """Prints the Dockerfile of an image for the version at URI, such as models:/triage/3."""
    settings = RegistrySettings(url=url, token_file=token_file, basic_auth_file=basic_auth_file)
    try:
        version = asyncio.run(_version(settings, parse(uri)))
    except InvalidSpecError as error:
        raise click.UsageError(error.message) from error
    if isinstance(version, Problem):
        raise click.ClickException(f"{version.reason}: {version.message}")
    if runtime_image is None:
        operator = Settings()
        runtime_image = operator.runtime_image
        mismatch = mismatch_of(version, operator)
        if not version.python or (mismatch and mismatch.reason != Reason.DEPENDENCY_MISSING):
            why = mismatch.message if mismatch else "The version does not say its Python"
            raise click.ClickException(f"{why}. Name the image to build from by --runtime-image")
    click.echo(dockerfile(version, runtime_image.format(python=version.python)), nl=False)


main.add_command(plan)


async def _version(settings: RegistrySettings, uri: ModelUri) -> Version | Problem:
    registry = Registry(settings)
    try:
        identity = await registry.ask(uri)
        return identity if isinstance(identity, Problem) else await registry.read(identity)
    finally:
        await registry.close()


if __name__ == "__main__":
    main()
