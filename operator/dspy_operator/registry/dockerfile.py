"""The Dockerfile of an image for one version: the runtime, and what the version needs besides. Pure."""

from __future__ import annotations

import shlex

from dspy_operator.domain.snapshot import Version

_USER = "65532:65532"


def dockerfile(version: Version, runtime_image: str) -> str:
    """Its text. Packages of the runtime keep their versions: one that cannot live with them ends the build in pip's
    words."""
    name, number = version.uri.removeprefix("models:/").split("/")
    head = [
        f"# The image of {version.uri}. Build it and push it where your cluster pulls from:",
        f"#   docker build --tag REGISTRY/{name.lower()}:{number} - < Dockerfile",
        f"# and name it in the DSPyProgram: spec.image: REGISTRY/{name.lower()}:{number}",
        f"FROM {runtime_image}",
    ]
    if not version.missing:
        return "\n".join([*head, "# The runtime has all that its requirements.txt names: no image is needed.", ""])
    pip = "/tmp/pip/bin/pip --python /opt/venv/bin/python"
    packages = " ".join(shlex.quote(each) for each in version.missing)
    steps = [
        "python3 -m venv /tmp/pip",
        f"{pip} freeze > /tmp/pip/held",
        f"{pip} install --no-cache-dir --constraint /tmp/pip/held {packages}",
        "rm -rf /tmp/pip",
    ]
    return "\n".join([*head, "USER 0", "RUN " + " \\\n && ".join(steps), f"USER {_USER}", ""])
