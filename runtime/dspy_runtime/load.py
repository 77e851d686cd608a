"""From files to a program, with no setting of the artifact in force.

Both formats of MLflow's DSPy flavour are pickles, so loading runs the artifact's code: that is why it happens only
here, in the sandboxed pod. The language model saved with a program (and any key in it) is dropped.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import yaml

from dspy_runtime.failures import ModelLoadError, PythonMismatchError, StartError, described

_LASTING = (
    ModelLoadError,
    ImportError,
    AttributeError,
    NameError,
    SyntaxError,
    TypeError,
    ValueError,
    LookupError,
    EOFError,
    FileNotFoundError,
    pickle.UnpicklingError,
    yaml.YAMLError,
)
"""What the artifact and the image make of each other: another try ends alike."""


def check_python(folder: Path) -> None:
    """Refuses a version that another Python minor logged: its pickle ends this process in a segmentation fault."""
    file = folder / "python_env.yaml"
    logged = str((yaml.safe_load(file.read_text()) or {}).get("python", "")) if file.exists() else ""
    minor = ".".join(logged.split(".")[:2])
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if minor and minor != here:
        raise PythonMismatchError(f"the version was logged with Python {minor} and this image runs Python {here}")


def load_program(folder: Path) -> tuple[Any, Any]:
    """The program and the adapter it was saved with (None for the default).

    Raises ModelLoadError for what no time heals, and StartError for the rest: a disk that is full and a vector store
    that is away are no property of a version.
    """
    try:
        return _load(folder)
    except _LASTING as error:
        raise ModelLoadError(f"the model does not load: {described(error)}") from error
    except Exception as error:
        raise StartError(f"the model did not load: {described(error)}") from error


def _load(folder: Path) -> tuple[Any, Any]:
    flavor = yaml.safe_load((folder / "MLmodel").read_text())["flavors"].get("dspy")
    if flavor is None:
        raise ModelLoadError("the version was not logged by mlflow.dspy")
    if flavor.get("code"):
        sys.path.insert(0, str(folder / flavor["code"]))
    import dspy

    path = folder / flavor.get("model_path", "data/model.pkl")
    if path.suffix == ".pkl":
        with path.open("rb") as file:
            wrapper = _Unpickler(file).load()
        program, settings = wrapper.model, wrapper.dspy_settings
    else:
        program = dspy.load(str(path), allow_pickle=True)
        saved = folder / "data" / "dspy_config.pkl"
        settings = dspy.load_settings(str(saved), allow_pickle=True) if saved.exists() else {}
    program.set_lm(None)
    return program, settings.get("adapter")


class _Wrapper:
    """Stands for MLflow's wrapper class inside a pickle, so that loading imports neither MLflow nor pandas."""

    model: Any
    dspy_settings: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "mlflow.dspy" or module.startswith("mlflow.dspy."):
            return _Wrapper
        return super().find_class(module, name)
