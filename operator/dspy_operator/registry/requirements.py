"""What a version needs that the runtime's image does not have: told before the first pod, not by its failure."""

from __future__ import annotations

from functools import cache
from importlib import resources

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

PACKAGES_FILE = "runtime_packages.txt"
NOT_NEEDED = frozenset({"mlflow", "litellm", "gepa", "pip", "setuptools", "wheel"})
"""What MLflow writes down, or DSPy declares, and serving a program never imports."""


def missing(requirements: str, python: str) -> tuple[str, ...]:
    """The lines of a `requirements.txt` that name a package which the image for that Python minor does not hold.

    The image's extras are not known, so that a requirement with one is missing. Options, bare addresses and what cannot
    be read as a requirement are left to the image's builder: they name no package.
    """
    found = []
    for line in requirements.splitlines():
        words = line.partition(" #")[0].strip()
        try:
            needed = Requirement(words)
            wanted = needed.marker is None or needed.marker.evaluate({"python_version": python} if python else None)
        except (InvalidRequirement, UndefinedEnvironmentName):
            continue
        name = canonicalize_name(needed.name)
        if wanted and name not in NOT_NEEDED and (needed.extras or name not in packages()):
            found.append(words)
    return tuple(found)


@cache
def packages() -> frozenset[str]:
    """The names of the packages in the runtime's image, generated from uv.lock."""
    text = resources.files(__package__).joinpath(PACKAGES_FILE).read_text()
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))
