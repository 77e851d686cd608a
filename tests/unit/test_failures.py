"""Keys are struck out of what is told of a start that failed, and nothing else is."""

from __future__ import annotations

import pytest

from dspy_runtime.failures import LMConfigurationError, described
from dspy_runtime.redaction import without_keys


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcdefgh12345678",
        "AIzaSyA-1234567890abcdefghijklmnopqrstu",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY1",
        "dGhpcyBpcyBhIHZlcnkgbG9uZyBzZWNyZXQ0Mg==",
        "Bearer abcdef123456",
    ],
)
def test_a_key_is_struck_out(key: str) -> None:
    told = without_keys(f"the provider said that {key} is wrong")
    assert key not in told
    assert told.startswith("the provider said that")
    assert told.endswith("is wrong")


def test_a_password_in_an_address_is_struck_out() -> None:
    assert without_keys("postgres://user:hunter2@db/x") == "postgres://user:[redacted]@db/x"


@pytest.mark.parametrize(
    "words",
    [
        "lm.model 'bedrock/anthropic.claude-haiku-4-5-20251001-v1:0' or its parameters",
        "ModuleNotFoundError: No module named 'my_company_internal_pipelines'",
        "cannot import name 'DSPyProgramOfThoughtInterpreter' from 'dspy.primitives.python_interpreter'",
        "the files of models:/m-0123 have the digest 3f1cf368ab12 and the revision was made of 8385a3741c22",
    ],
)
def test_words_stay(words: str) -> None:
    assert without_keys(words) == words


def test_exceptions_speak_for_themselves_only_where_they_name_code() -> None:
    assert described(ImportError("No module named 'pandas'")) == "ImportError: No module named 'pandas'"
    assert described(ValueError("a customer's name")) == "ValueError"
    assert described(LMConfigurationError("n must be positive"), telling=True).endswith("n must be positive")
