"""From files to a program, with no setting of the artifact in force.

Both formats of MLflow's DSPy flavour are pickles, so loading runs the artifact's code: that is why it happens only
here, in the sandboxed pod. Of the settings that were saved with a program those are carried that its answers may hang
on; language models and their keys are not (`lm/replace.py`).
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dspy_runtime.failures import ModelLoadError, PythonMismatchError, StartError, described

_LASTING = (
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


CARRIED = (
    "adapter",
    "rm",
    "allow_tool_async_sync_conversion",
    "async_max_workers",
    "num_threads",
    "max_errors",
    "warn_on_type_mismatch",
    "provide_traceback",
    "track_usage",
    "interpreter_factory",
)
"""Settings of DSPy that a program keeps from its author's process."""
_OURS = ("lm", "disable_history", "max_history_size", "max_trace_size", "usage_tracker", "trace")
"""Settings that are the server's business, whatever was saved."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A program, the settings that it keeps, and the names of those that it had and does not keep."""

    program: Any
    settings: Mapping[str, Any]
    dropped: tuple[str, ...]


def check_python(folder: Path) -> None:
    """Refuses a version that another Python minor logged: its pickle ends this process in a segmentation fault."""
    file = folder / "python_env.yaml"
    logged = str((yaml.safe_load(file.read_text()) or {}).get("python", "")) if file.exists() else ""
    minor = ".".join(logged.split(".")[:2])
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if minor and minor != here:
        raise PythonMismatchError(f"the version was logged with Python {minor} and this image runs Python {here}")


def load_program(folder: Path) -> Loaded:
    """A version's program.

    Raises ModelLoadError for what no time heals, and StartError for the rest: a disk that is full and a vector store
    that is away are no property of a version.
    """
    try:
        return _load(folder)
    except StartError:
        raise
    except _LASTING as error:
        raise ModelLoadError(f"the model does not load: {described(error)}") from error
    except Exception as error:
        raise StartError(f"the model did not load: {described(error)}") from error


def _load(folder: Path) -> Loaded:
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
    return _with_settings(program, settings)


def _with_settings(program: Any, saved: Mapping[str, Any]) -> Loaded:
    from dspy.dsp.utils.settings import DEFAULT_CONFIG

    told = {name: value for name, value in saved.items() if name not in DEFAULT_CONFIG or value != DEFAULT_CONFIG[name]}
    kept = {name: value for name, value in told.items() if name in CARRIED}
    return Loaded(program, kept, tuple(sorted(told.keys() - kept.keys() - set(_OURS))))


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
