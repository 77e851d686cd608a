"""Whether the runtime's images can load a version. Pure."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet

from dspy_operator.api.reasons import Reason
from dspy_operator.domain.snapshot import Problem, Version
from dspy_operator.settings import Settings

MOST_NAMED = 5


def mismatch_of(version: Version, settings: Settings) -> Problem | None:
    """Why no runtime image can load a version; None for one that some can. Users who bring their own image know what
    they do."""
    if version.python and version.python not in settings.runtime_pythons:
        known = ", ".join(settings.runtime_pythons)
        words = (
            f"Version {version.number} was logged with Python {version.python}; there are runtime images for {known}"
        )
        return Problem(Reason.PYTHON_MISMATCH, f"{words}: log it again with one of these, or set spec.image")
    if version.dspy and not _within(version.dspy, settings.runtime_dspy):
        words = f"Version {version.number} needs DSPy {version.dspy}; the runtime images hold {settings.runtime_dspy}"
        return Problem(Reason.DSPY_MISMATCH, f"{words}: log it again with that, or set spec.image")
    if version.missing:
        return Problem(Reason.DEPENDENCY_MISSING, _not_in_image(version))
    return None


def _not_in_image(version: Version) -> str:
    named = ", ".join(version.missing[:MOST_NAMED])
    more = f" and {len(version.missing) - MOST_NAMED} more" if len(version.missing) > MOST_NAMED else ""
    return (
        f"{named}{more}: version {version.number} requires what the runtime image does not hold. "
        f"`dspy-operator image {version.uri}` prints the Dockerfile of one that does: build it and set spec.image to "
        "it. Or log the version again with pip_requirements of what it imports"
    )


def _within(version: str, supported: str) -> bool:
    return SpecifierSet(supported).contains(version, prereleases=True)
