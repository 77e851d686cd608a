"""Why a runtime cannot start, as a tree of exceptions, each with a reason that the operator reads.

StartError
├── ModelNotFoundError      the registry has no such version
├── RegistryUnavailableError  the registry does not answer; may heal
├── ModelChangedError       the files are not those that the revision was made of
├── PythonMismatchError     logged with another Python minor
├── ModelLoadError          the artifact does not load
├── LMConfigurationError    the language model cannot be called as configured
└── SchemaError             serving.schema is no JSON Schema, or not of this program
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path

_LONGEST_MESSAGE = 400
_NAMED = r"(sk|key|token|bearer|secret|password)[-_ =:][\w.-]{6,}"
_KNOWN = r"(AIza|AKIA|ASIA)[\w-]{8,}|gh[a-z]_\w{8,}"
_KEYS = re.compile(f"{_NAMED}|{_KNOWN}", re.IGNORECASE)
_PASSWORDS = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_WORDS = re.compile(r"[A-Za-z0-9+/]{20,}={0,2}")
_RANDOM_BITS = 3.5
"""Bits a character above which a long word of letters and digits is no word of anybody's."""
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


class SchemaError(StartError):
    """`serving.schema` is no JSON Schema, or names what the program does not have."""

    reason = "SchemaInvalid"


def described(error: BaseException, telling: bool = False) -> str:
    """An exception's class, and its own words only where they name code, or are `telling` by what raised it; anything
    like a key is struck out."""
    words = f"{type(error).__name__}: {error}" if telling or isinstance(error, _TELLING) else type(error).__name__
    return without_keys(words)[:_LONGEST_MESSAGE]


def without_keys(words: str) -> str:
    """Words without what is, or looks like, a key: by the patterns of those that have one, else by its randomness."""
    words = _PASSWORDS.sub(r"\1[redacted]@", words)
    words = _KEYS.sub("[redacted]", words)
    return _WORDS.sub(lambda found: "[redacted]" if _is_random(found[0]) else found[0], words)


def _is_random(word: str) -> bool:
    if not (re.search(r"\d", word) and re.search(r"[A-Za-z]", word)):
        return False
    shares = [count / len(word) for count in Counter(word).values()]
    return -sum(share * math.log2(share) for share in shares) > _RANDOM_BITS


def write_termination(path: Path, error: StartError) -> None:
    """Leaves the reason where the kubelet finds it, if there is such a place."""
    if path.exists():
        path.write_text(json.dumps({"reason": error.reason, "message": str(error)[:_LONGEST_MESSAGE]}))
