"""The language models that came with an artifact are taken out of it, wherever it keeps them: none of them, and none of
their keys, is ever used."""

from __future__ import annotations

import copy
import difflib
import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from dspy_runtime.failures import LMConfigurationError
from dspy_runtime.lm.models import LanguageModels


@dataclass(frozen=True, slots=True)
class Replaced:
    """One model of the artifact: where it was, what it was, and what answers instead."""

    where: str
    saved: str
    serves: str


def replace_models(program: Any, models: LanguageModels) -> list[Replaced]:
    """Gives every predictor the model that the configuration has for it, and says which of the artifact's own models
    that took the place of.

    A predictor without one of its own uses the default. A model that the program keeps anywhere else (an attribute, an
    adapter, a closure) becomes the default where it stands. Raises LMConfigurationError for a predictor that the
    program has not.
    """
    predictors = dict(program.named_predictors())
    for name in models.by_predictor:
        if name not in predictors:
            raise LMConfigurationError(
                f"lm.byPredictor: the program has no predictor {name!r}; {_those(predictors, name)}"
            )
    served = [model.lm for model in models.all()]
    found = []
    for name, predictor in predictors.items():
        own = models.by_predictor.get(name)
        if predictor.lm is not None:
            found.append(Replaced(name, str(predictor.lm.model), (own or models.default).lm.model))
        predictor.lm = own.lm if own else None
    gc.collect()
    held = [each for each in gc.get_objects() if isinstance(each, dspy.BaseLM) and not any(each is lm for lm in served)]
    paths = _paths(program)
    for each in held:
        found.append(Replaced(paths.get(id(each), "elsewhere"), str(each.model), models.default.lm.model))
        _become(each, models.default.lm)
    return found


def _become(held: Any, lm: Any) -> None:
    """What was one model is another from now on, for everybody who holds it."""
    held.__class__ = type(lm)
    held.__dict__.clear()
    held.__dict__.update(copy.copy(lm).__dict__)


def _paths(program: Any) -> Mapping[int, str]:
    """The attributes of the program's modules that hold a model, by the model's identity."""
    return {
        id(value): f"{name}.{attribute}"
        for name, module in program.named_sub_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, dspy.BaseLM)
    }


def _those(predictors: Mapping[str, Any], name: str) -> str:
    near = difflib.get_close_matches(name, predictors, n=1)
    return f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(predictors) or 'none'}"
