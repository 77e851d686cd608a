"""Logs versions of the demo's program to the MLflow server. Runs inside the server's pod, which has MLflow and DSPy.

Takes a JSON list as its argument: [{"name": ..., "kind": "good" | "better" | "bad", "alias": ...}, ...] and prints the
number of each version that it logged, as a JSON list. `python` is written as the Python that logged it; `padding` is
the size of a file of noise beside it (bytes), `requires` one more line of its requirements.txt.
"""

import json
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import dspy
import mlflow
from mlflow import MlflowClient


class Triage(dspy.Signature):
    """Sort a customer's message into a category and say how urgent it is."""

    message: str = dspy.InputField()
    category: str = dspy.OutputField(desc="billing, technical or other")
    urgency: str = dspy.OutputField(desc="low or high")


TASK = "Sort a customer's message into a category and say how urgent it is."

INSTRUCTIONS = {
    "good": TASK,
    "better": f"{TASK} Words like `now` or `down` mean high urgency.",
    # What teams really ship: a friendlier prompt, whose answers no longer have the fields that the program reads.
    "bad": f"{TASK} Always answer warmly, in flowing prose.",
}


def program(kind: str) -> dspy.Module:
    """The program with the prompt of that kind. `broken` is one that cannot be loaded, `talking` one that needs a
    package which the runtime's image does not have, `blocking` one that blocks its event loop."""
    if kind in OTHERS:
        return OTHERS[kind]()
    return dspy.ChainOfThought(Triage.with_instructions(INSTRUCTIONS.get(kind, kind)))


class Broken(dspy.Module):
    """Pickles well, and raises when it is loaded."""

    def forward(self) -> None:
        """Never runs."""

    def __reduce__(self) -> tuple[object, ...]:
        return (__import__, ("a_module_that_the_image_does_not_have",))


class Talking(dspy.Module):
    """Says a message in the manner of a package."""

    def forward(self, message: str) -> dict[str, str]:
        """The package's words."""
        import cowsay

        return {"said": cowsay.get_output_string("cow", message)}


class Blocking(dspy.Module):
    """Holds up all requests of its pod, as code does that waits where it should await."""

    async def aforward(self, message: str) -> dict[str, str]:
        """The message, after a while in which the pod answers nobody."""
        time.sleep(2)
        return {"said": message}


OTHERS = {"broken": Broken, "talking": Talking, "blocking": Blocking}


def log(wanted: dict[str, str]) -> str:
    """Logs one version and moves the alias to it, if one is named."""
    name = wanted["name"]
    client = MlflowClient()
    if wanted["kind"] != "move":
        with mlflow.start_run(), tempfile.TemporaryDirectory() as folder:
            mlflow.dspy.log_model(
                program(wanted["kind"]),
                name="model",
                registered_model_name=name,
                pip_requirements=[f"dspy=={dspy.__version__}", *filter(None, [wanted.get("requires")])],
            )
            if "python" in wanted:
                Path(folder, "python_env.yaml").write_text(f"python: {wanted['python']}\n")
            if "padding" in wanted:
                Path(folder, "noise").write_bytes(random.randbytes(int(wanted["padding"])))
            version = max(client.search_model_versions(f"name='{name}'"), key=lambda found: int(found.version))
            for file in Path(folder).iterdir():
                client.log_model_artifact(version.source.removeprefix("models:/"), str(file))
    version = wanted.get("version") or max((v.version for v in client.search_model_versions(f"name='{name}'")), key=int)
    if "alias" in wanted:
        client.set_registered_model_alias(name, wanted["alias"], version)
    return str(version)


if __name__ == "__main__":
    mlflow.set_experiment("demo")
    print("VERSIONS", json.dumps([log(wanted) for wanted in json.loads(sys.argv[1])]))
