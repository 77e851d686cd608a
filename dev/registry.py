"""A Python in which MLflow's server runs.

It cannot run beside the gateway's packages: xds-protos brings an older `opentelemetry.proto`, and whichever of both is
installed last is the one that stays.
"""

from __future__ import annotations

REGISTRY_PYTHON = ("uv", "run", "--frozen", "--quiet", "--isolated", "--only-group", "registry", "python")
