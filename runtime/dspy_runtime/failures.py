"""Why a runtime cannot start, as a tree of exceptions, each with a reason that the operator reads.

StartError
├── ModelNotFoundError      the registry has no such version
├── RegistryUnavailableError  the registry does not answer; may heal
├── ModelChangedError       the files are not those that the revision was made of
├── PythonMismatchError     logged with another Python minor
├── ModelLoadError          the artifact does not load
├── LMConfigurationError    the language model cannot be called as configured
├── GuardrailError          a guardrail that cannot be, or whose function is nowhere
└── SchemaError             serving.schema is no JSON Schema, or not of this program
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dspy_contract.logs import Logger
from dspy_runtime.error_report import report
from dspy_runtime.redaction import without_keys

_LONGEST_MESSAGE = 400
log = Logger(__name__)
_TELLING = (ImportError, AttributeError, FileNotFoundError, TypeError)
"""Exceptions whose own words name code, not data, and so may be shown."""


class StartError(Exception):
    """The runtime cannot start; `reason` is CamelCase, the message is for people and holds no secret."""

    reason = "StartFailed"


class ModelNotFoundError(StartError):
    """The registry answered that there is no such model or version."""

    reason = "ModelNotFound"


class RegistryUnavailableError(StartError):
    """The registry did not answer, or with an error of its own."""

    reason = "RegistryUnavailable"


class ModelChangedError(StartError):
    """The version's files are not those that the revision was made of: it would not be what was judged."""

    reason = "ModelChanged"


class PythonMismatchError(StartError):
    """The version was logged with another Python minor, whose pickles crash this one."""

    reason = "PythonMismatch"


class ModelLoadError(StartError):
    """The artifact is not a DSPy program that this image can load."""

    reason = "ModelLoadFailed"


class LMConfigurationError(StartError):
    """The provider is unknown, or its parameters are refused."""

    reason = "LMConfigurationInvalid"


class GuardrailError(StartError):
    """A guardrail is no check, or its function is not there."""

    reason = "GuardrailInvalid"


class SchemaError(StartError):
    """`serving.schema` is no JSON Schema, or names what the program does not have."""

    reason = "SchemaInvalid"


def described(error: BaseException, telling: bool = False) -> str:
    """An exception's class, and its own words only where they name code, or are `telling` by what raised it; anything
    like a key is struck out."""
    words = f"{type(error).__name__}: {error}" if telling or isinstance(error, _TELLING) else type(error).__name__
    return without_keys(words)[:_LONGEST_MESSAGE]


@contextmanager
def explained(place: Path) -> Iterator[None]:
    """Ends the process of a start that fails, and says why in the log and, if there is such a place, where the kubelet
    finds it."""
    try:
        yield
    except Exception as error:  # of what nobody foresaw the words stay here, for they may hold a value
        _explain(place, error)
        sys.exit(1)


def _explain(place: Path, error: Exception) -> None:
    known = error if isinstance(error, StartError) else StartError(f"the runtime did not start: {described(error)}")
    if place.exists():
        place.write_text(json.dumps({"reason": known.reason, "message": str(known)[:_LONGEST_MESSAGE]}))
    log.error(str(known), reason=known.reason, **report(error, with_words=False))
