"""What libraries log, as lines of ours. Their words may hold what a user asked or a model answered: they are shown
where a setting says so, else the place in their code."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from dspy.predict import best_of_n, refine

from dspy_contract.logs import OURS, JsonFormatter
from dspy_runtime.error_report import report
from dspy_runtime.redaction import without_keys


class _Formatter(JsonFormatter):
    def __init__(self, with_words: bool) -> None:
        super().__init__()
        self._with_words = with_words

    def format(self, record: logging.LogRecord) -> str:
        """The line without its end."""
        if record.name.startswith(OURS) or (record.name.startswith("uvicorn") and not record.exc_info):
            return super().format(record)
        words = record.getMessage() if self._with_words else str(record.msg) if record.args else "A library's own words"
        shown = logging.LogRecord(record.name, record.levelno, "", 0, without_keys(words), (), None)
        shown.created = record.created
        fields: dict[str, Any] = {"where": f"{Path(record.pathname).name}:{record.lineno} {record.funcName}"}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= report(record.exc_info[1], self._with_words)
        shown.__dict__["fields"] = fields
        return super().format(shown)


def _of_thread(ended: threading.ExceptHookArgs) -> None:
    """A thread that the program started ended with an exception."""
    if issubclass(ended.exc_type, SystemExit):
        return
    found = (ended.exc_type, ended.exc_value, ended.exc_traceback)
    logging.getLogger("threading").error("A thread ended", exc_info=found)  # type: ignore[arg-type]


def take_over(with_words: bool) -> None:
    """From now on every line is of this form: the handlers that libraries have set up are gone, and what DSPy prints is
    logged."""
    formatter = _Formatter(with_words)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
    dspy = logging.getLogger("dspy")
    dspy.handlers, dspy.propagate = [], True
    threading.excepthook = _of_thread
    for module in (best_of_n, refine):
        module.print = lambda words, name=module.__name__: logging.getLogger(name).warning("A try failed: %s", words)
