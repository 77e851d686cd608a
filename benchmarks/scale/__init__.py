"""One operator over many programs: a real API server, pods that kwok pretends to run, and one process that answers for
every gateway's agent."""

from __future__ import annotations

from dev.cluster.pretended import run_inside


def main() -> None:
    """Measures where every pod's address is this machine's."""
    run_inside("benchmarks.scale.measure")
