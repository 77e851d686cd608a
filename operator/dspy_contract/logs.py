"""One log format for all three processes: JSON, one line an event, on standard error. Standard library only.

Fields are for machines and are named by the caller; secrets and users' values are never among them.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

OURS = ("dspy_operator", "dspy_gateway", "dspy_runtime", "dspy_kube")


class Logger:
    """A named logger whose events carry fields: `log.warning("A poll failed", pod="gateway-a")`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, message: str, **fields: Any) -> None:
        """For developers."""
        self._logger.debug(message, extra={"fields": fields})

    def info(self, message: str, **fields: Any) -> None:
        """Something that should happen."""
        self._logger.info(message, extra={"fields": fields})

    def warning(self, message: str, **fields: Any) -> None:
        """Something that may pass."""
        self._logger.warning(message, extra={"fields": fields})

    def error(self, message: str, **fields: Any) -> None:
        """Something that a person should see."""
        self._logger.error(message, extra={"fields": fields})

    def exception(self, message: str, **fields: Any) -> None:
        """An exception that nobody foresaw, with its traceback."""
        self._logger.exception(message, extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """A record of ours or of any library as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The line without its end."""
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(level: str = "INFO") -> None:
    """Sends our own logs and every library's through the one format.

    Libraries are never heard below INFO: what they print for debugging holds headers and bodies.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    chosen = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(chosen, logging.INFO), handlers=[handler], force=True)
    for package in OURS:
        logging.getLogger(package).setLevel(chosen)
    logging.captureWarnings(True)
