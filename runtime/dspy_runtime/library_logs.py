"""What DSPy itself logs, as lines of ours. Its words may hold what a user asked or a model answered: they are shown
where a setting says so, else the place in its code."""

from __future__ import annotations

import logging
from pathlib import Path

from dspy_contract.logs import JsonFormatter
from dspy_runtime.failures import without_keys


class _Formatter(JsonFormatter):
    def __init__(self, with_words: bool) -> None:
        super().__init__()
        self._with_words = with_words

    def format(self, record: logging.LogRecord) -> str:
        """The line without its end."""
        words = record.getMessage() if self._with_words else str(record.msg) if record.args else "DSPy logged this"
        where = f"{Path(record.pathname).name}:{record.lineno} {record.funcName}"
        shown = logging.LogRecord(record.name, record.levelno, "", 0, without_keys(words), (), None)
        shown.created = record.created
        shown.fields = {"where": where}
        return super().format(shown)


def take_over(with_words: bool) -> None:
    """Replaces the handler that DSPy sets up when it is imported."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(with_words))
    logger = logging.getLogger("dspy")
    logger.handlers = [handler]
    logger.propagate = False
