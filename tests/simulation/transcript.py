"""What people would have read: the operator's events, and the line of `kubectl get rollouts -o wide` at each change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dspy_kube.client import Object
from tests.simulation.world import START, World

CRD = Path(__file__).parents[2] / "crds" / "dspyrollouts.yaml"
COLUMNS = [
    column
    for version in yaml.safe_load(CRD.read_text())["spec"]["versions"]
    for column in version["additionalPrinterColumns"]
    if column["type"] != "date"
]


def transcript(world: World) -> str:
    """Second by second, and where it ended."""
    lines, shown = [], ""
    for at, resource, item in world.api.history:
        if resource == "events":
            lines.append(f"{at - START:6.1f} s  {item['reason']}: {item['message']}")
        if resource == "dspyrollouts" and (row := table_line(item)) != shown:
            shown = row
            lines.append(f"{at - START:6.1f} s  | {row}")
    weights = {backend.revision: backend.weight for backend in world.routes.backends} if world.routes else {}
    status, reason, _ = world.condition("Current")
    return "\n".join([*lines, f"in the end: Current={status} ({reason}), routes {weights}"])


def table_line(rollout: Object) -> str:
    """The line that kubectl prints of a rollout, but for its age."""
    cells = [_at(rollout, column["jsonPath"]) for column in COLUMNS]
    return " | ".join([rollout["metadata"]["name"], *cells])


def _at(item: Any, path: str) -> str:
    for part in path.strip(".").split("."):
        item = item.get(part) if isinstance(item, dict) else None
    return "" if item is None else str(item)
