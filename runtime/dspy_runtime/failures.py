"""Why a runtime cannot start, as a tree of exceptions, each with a reason that the operator reads.

StartError
├── ModelNotFoundError      the registry has no such version
├── RegistryUnavailableError  the registry does not answer; may heal
├── ModelChangedError       the files are not those that the revision was made of
├── PythonMismatchError     logged with another Python minor
├── ModelLoadError          the artifact does not load
└── LMConfigurationError    the language model cannot be called as configured
"""

from __future__ import annotations

import json
import re
from pathlib import Path

_LONGEST_MESSAGE = 400
_KEYS = re.compile(r"(sk|key|token|bearer)[-_ =:][\w.-]{6,}", re.IGNORECASE)
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


def described(error: BaseException, telling: bool = False) -> str:
    """An exception's class, and its own words only where they name code, or are `telling` by what raised it; anything
    like a key is struck out."""
    words = f"{type(error).__name__}: {error}" if telling or isinstance(error, _TELLING) else type(error).__name__
    return _KEYS.sub("[redacted]", words)[:_LONGEST_MESSAGE]


def write_termination(path: Path, error: StartError) -> None:
    """Leaves the reason where the kubelet finds it, if there is such a place."""
    if path.exists():
        path.write_text(json.dumps({"reason": error.reason, "message": str(error)[:_LONGEST_MESSAGE]}))
