"""What becomes of the calls of language models: counted, and told to the request that they were made for."""

from __future__ import annotations

from dspy.lm15 import Usage

from dspy_runtime.daily_budget import DailyBudget
from dspy_runtime.lm.endpoint import Model
from dspy_runtime.lm.scope import SCOPE
from dspy_runtime.metrics import Metrics


class CallObserver:
    """Told of every call by the endpoint that made it, in the context of the request."""

    def __init__(self, metrics: Metrics, budget: DailyBudget | None = None) -> None:
        self._metrics = metrics
        self._budget = budget

    def answered(self, model: Model, usage: Usage) -> None:
        """An answer came, and that is what it took."""
        cost = model.cost(usage)
        self._metrics.record_lm(model.label, usage.input_tokens, usage.output_tokens, cost)
        if self._budget is not None and cost is not None:
            self._budget.note(cost)
        scope = SCOPE.get()
        if scope is not None:
            tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
            scope.answered(model.label, model.is_fallback, tokens, cost)

    def ended(self, model: Model, outcome: str) -> None:
        """A try ended so."""
        self._metrics.record_call(model.label, outcome)

    def hedged(self, model: Model) -> None:
        """A second call was made beside one that takes long."""
        self._metrics.record_hedge(model.label)
