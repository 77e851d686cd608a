"""One cluster for all end-to-end tests, made and removed by them, and a namespace for each test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from dev.cluster.choose import cluster as choose
from dev.cluster.deploy import deploy
from dev.cluster.interface import Cluster
from dev.world import World

NAME = "dspy-test"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster with the operator on it. KEEP_CLUSTER=1 leaves it for the next run."""
    chosen = choose(NAME)
    chosen.create()
    deploy(chosen, {"DSPY_OPERATOR_REGISTRY_POLL_SECONDS": "2"})
    yield chosen
    if not os.environ.get("KEEP_CLUSTER"):
        chosen.delete()


@pytest.fixture(scope="session")
def versions(cluster: Cluster) -> dict[str, str]:
    """The uri of one version of each kind, of one registered model."""
    kinds = ("good", "better", "bad", "broken")
    numbers = World(cluster, "default").log(*({"name": "triage", "kind": kind} for kind in kinds))
    return {kind: f"models:/triage/{number}" for kind, number in zip(kinds, numbers, strict=True)}


@pytest.fixture
def world(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[World]:
    """A namespace of the test's own."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:50].strip("-")
    world = World(cluster, name)
    world.begin()
    world.set_lm(latency_seconds=0.02, error_share=0.0)
    yield world
    world.end()
