"""`dspy-operator plan`: reads manifests, and prints what a release under them would take. No cluster is needed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cattrs
import click
import yaml
from rich.console import Console
from rich.table import Table

from dspy_operator.api.convert import from_dict
from dspy_operator.api.rollout import RolloutSpec
from dspy_operator.domain.forecast import FAULTS, Forecast, Seen, forecast


@click.command()
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A manifest: a DSPyRollout, and the DSPyProgram if it has more than one replica.",
)
@click.option(
    "--rps",
    "rate",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="Requests a second of the program.",
)
@click.option(
    "--failing",
    type=click.FloatRange(0, 99),
    default=1.0,
    show_default=True,
    help="Percent of them that fail while all is well.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(files: tuple[Path, ...], rate: float, failing: float, as_json: bool) -> None:
    """Prints the steps that a release would take, how long each lasts at that traffic, and when a fault would be seen
    that begins with it, by the tests that judge releases."""
    manifests = [item for file in files for item in _manifests(file)]
    rollouts = [item for item in manifests if item.get("kind") == "DSPyRollout"]
    if len(rollouts) != 1:
        raise click.UsageError(f"give one DSPyRollout; there are {len(rollouts)} in {', '.join(map(str, files))}")
    spec = _spec(rollouts[0])
    program = _program(manifests, spec)
    by_users = "conversations" in (program.get("routing") or {})
    found = forecast(spec, int(program.get("replicas", 1)), rate, failing / 100, by_users)
    if as_json:
        click.echo(json.dumps({**asdict(found), "seconds": found.seconds, "faults": FAULTS}, indent=2))
    else:
        _show(found, rate, failing)


def _manifests(file: Path) -> list[dict[str, Any]]:
    try:
        return [item for item in yaml.safe_load_all(file.read_text()) if isinstance(item, dict)]
    except yaml.YAMLError as error:
        raise click.UsageError(f"{file} is no YAML: {error}") from error


def _spec(manifest: dict[str, Any]) -> RolloutSpec:
    try:
        return from_dict(manifest["spec"], RolloutSpec)
    except (cattrs.BaseValidationError, KeyError, TypeError, ValueError) as error:
        raise click.UsageError(
            f"the rollout's spec cannot be read: {'; '.join(cattrs.transform_error(error))}"
        ) from error


def _program(manifests: Iterable[dict[str, Any]], spec: RolloutSpec) -> dict[str, Any]:
    """The spec of the program that the rollout names, if it is given."""
    for item in manifests:
        if item.get("kind") == "DSPyProgram" and (item.get("metadata") or {}).get("name") == spec.program_ref.name:
            return item.get("spec") or {}
    return {}


def _show(found: Forecast, rate: float, failing: float) -> None:
    console = Console()
    table = Table(title=f"A release at {rate:g} requests a second, of which {failing:g} % fail while all is well")
    for name in ("step", "", "weight", "pods", "takes"):
        table.add_column(name, justify="left" if not name else "right")
    for fault in FAULTS:
        table.add_column(f"fails {fault:.0%}", justify="right")
    for number, step in enumerate(found.steps, 1):
        takes = "a person" if step.seconds is None else _duration(step.seconds)
        seen = [_seen(each) for each in step.seen]
        table.add_row(str(number), step.name, f"{step.weight_percent:g} %", str(step.pods), takes, *seen)
    console.print(table)
    console.print(
        "Of each fault: how soon the candidate loses its traffic if it begins with the step (bad answers until then)."
    )
    if found.by_users:
        console.print(
            "Users, or conversations, are drawn and counted, 50 at least: the table takes each request for another "
            "one's, so a fault is seen later where they send many."
        )
    if found.proof_seconds is not None:
        proof = f"{_duration(found.proof_seconds)} and {found.proof_requests} requests of the candidate"
        console.print(f"To be shown no worse, a candidate that is as good as stable needs {proof} at the last weight.")


def _seen(seen: Seen | None) -> str:
    return f"{_duration(seen.seconds)} ({seen.bad_answers})" if seen else "-"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
