"""What a version needs and the runtime's image does not hold."""

from __future__ import annotations

from dspy_operator.registry.requirements import NOT_NEEDED, missing, packages


def test_packages_that_the_image_holds_are_never_missing() -> None:
    assert {"dspy", "pydantic", "numpy", "mlflow-skinny", "cloudpickle"} <= packages()
    assert not packages() & NOT_NEEDED
    assert missing("mlflow==3.17.2\ndspy==3.4.1\nNumPy>=2\ncloudpickle==3.1\nlitellm\n", "3.11") == ()


def test_what_is_missing_is_named_as_it_was_written() -> None:
    text = "# a comment\n-r other.txt\npandas==2.2  # for tables\nscikit_learn[extra]>=1 ; python_version < '3.12'\n"
    assert missing(text, "3.11") == ("pandas==2.2", "scikit_learn[extra]>=1 ; python_version < '3.12'")
    assert missing(text, "3.13") == ("pandas==2.2",)
    assert missing("git+https://example.com/x.git\n./wheel.whl\n\x00\n", "3.11") == ()
