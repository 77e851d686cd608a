"""Sets DSPy up for a process that serves: its settings, and what of it is changed because all requests share it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy

from dspy_runtime.library_logs import take_over
from dspy_runtime.lm.embeddings import carry_embeddings
from dspy_runtime.lm.models import LanguageModels
from dspy_runtime.progress import share_bars
from dspy_runtime.rendering import remember_rendering
from dspy_runtime.retrying_modules import count_by_request

LONGEST_TRACE = 1_000
"""Entries of the trace of a thread that belongs to no request; each request has a trace of its own."""


def own_dspy(program: Any, models: LanguageModels, saved: Mapping[str, Any], log_messages: bool) -> None:
    """Sets DSPy up for the whole process, so that threads that the program starts itself find the same as its author's
    did. To be called by the task that outlives all others: no other may change DSPy's settings then."""
    kept = {"adapter": dspy.ChatAdapter(), **saved}
    dspy.configure(lm=models.default.lm, disable_history=True, max_trace_size=LONGEST_TRACE, **kept)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    carry_embeddings(models)
    remember_rendering(program)
    share_bars()
    count_by_request()
    take_over(log_messages)
