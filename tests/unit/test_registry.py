"""What a model uri means, where no registry has to be asked."""

from __future__ import annotations

from dspy_operator.domain.snapshot import Problem
from dspy_operator.registry.mlflow import LARGEST_VERSION, Registry
from dspy_operator.registry.uri import parse
from dspy_operator.settings import RegistrySettings


async def test_a_version_that_no_registry_can_hold_is_not_found() -> None:
    registry = Registry(RegistrySettings(url="http://127.0.0.1:9"))
    found = await registry.ask(parse(f"models:/triage/{LARGEST_VERSION + 1}"))
    await registry.close()
    assert isinstance(found, Problem)
    assert found.reason == "ModelNotFound"
