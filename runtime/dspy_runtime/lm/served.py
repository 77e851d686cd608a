"""`dspy.LM` as a server needs it: the same call, without two hops to other threads.

DSPy prepares a call and looks up its price on worker threads, for reading a file and a table of prices may block. Here
messages are in memory and nobody asks for prices, and the two hops were a quarter of a request's CPU (1.03 ms, 0.79 ms
without them). What is called here is DSPy's own code, of the minor that pyproject.toml pins.
"""

from __future__ import annotations

from typing import Any

import dspy
from dspy.clients import execution
from dspy.clients.call_result import combine
from dspy.clients.errors import error_boundary
from dspy.utils.callback import with_callbacks


class ServedLM(dspy.LM):  # type: ignore[misc]
    """A language model whose engine is ours: it keeps no answers, and tries nothing again by itself."""

    @with_callbacks  # type: ignore[untyped-decorator]
    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """One call, as `dspy.LM` makes it."""
        call = execution.prepare(self, prompt, messages, kwargs, asynchronous=True)
        engine, request, provider = execution._engine(self, call, True)
        results: list[Any] = []
        try:
            for _ in range(call.n):
                with error_boundary(self.model, provider=provider, unexpected=True):
                    await execution._aattempt(self, call, engine, request, provider, execution._Attempt(), results)
        except BaseException as error:
            execution._account_failed_call(self, results, error)
            raise
        result = results[0] if len(results) == 1 else combine(results, model_type=self.model_type)
        return execution.finalize(self, call, result)
