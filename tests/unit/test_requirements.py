"""What a version needs and the runtime's image does not hold."""

from __future__ import annotations

from pathlib import Path

from dspy_operator.domain.snapshot import Version
from dspy_operator.registry.dockerfile import dockerfile
from dspy_operator.registry.requirements import NOT_NEEDED, missing, packages

ROOT = Path(__file__).parents[2]


def test_packages_that_the_image_holds_are_never_missing() -> None:
    assert {"dspy", "pydantic", "numpy", "mlflow-skinny", "cloudpickle"} <= packages()
    assert not packages() & NOT_NEEDED
    assert missing("mlflow==3.17.2\ndspy==3.4.1\nNumPy>=2\ncloudpickle==3.1\nlitellm\n", "3.11") == ()


def test_what_is_missing_is_named_as_it_was_written() -> None:
    text = "# a comment\n-r other.txt\npandas==2.2  # for tables\nscikit_learn[extra]>=1 ; python_version < '3.12'\n"
    assert missing(text, "3.11") == ("pandas==2.2", "scikit_learn[extra]>=1 ; python_version < '3.12'")
    assert missing(text, "3.13") == ("pandas==2.2",)
    assert missing("dspy[deno]==3.4.1\nmlflow[auth]==3.17.2\n", "3.11") == ("dspy[deno]==3.4.1",)
    assert missing("git+https://example.com/x.git\n./wheel.whl\n\x00\n", "3.11") == ()


def test_the_dockerfile_of_a_version_is_the_one_in_the_docs() -> None:
    version = Version("models:/triage/3", "3", "", "digest", "3.11", "3.4.1", missing=("pandas==2.2.3",))
    docs = (ROOT / "docs" / "images.md").read_text()
    assert dockerfile(version, "dspy-operator/runtime:0.1.0-py3.11") in docs


def test_a_version_that_needs_nothing_needs_no_image() -> None:
    version = Version("models:/triage/3", "3", "", "digest", "3.11", "3.4.1")
    assert "RUN" not in dockerfile(version, "runtime:1")


def test_what_a_requirement_says_is_no_command() -> None:
    found = missing('evil==1; python_version > "3" and "$(id)" != ""\nother>=1', "3.11")
    text = dockerfile(Version("models:/m/1", "1", "", "digest", "3.11", "", missing=("other>=1", *found)), "runtime:1")
    assert "'other>=1'" in text
    assert "$(id)" not in text
