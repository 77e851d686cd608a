"""`python -m dspy_runtime MODEL`: serves one version of one program, from a directory or a `models:/` uri."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import click

# Read by libraries when they are imported: nothing is sent home, no price map is downloaded, no cache is kept on disk.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from dspy_contract import logs
from dspy_contract.logs import Logger
from dspy_runtime.failures import RegistryUnavailableError, StartError, write_termination
from dspy_runtime.settings import Settings

REGISTRY_RETRY_SECONDS = 5
log = Logger(__name__)


@click.command()
@click.argument("model", required=False)
@click.option("--lm", "lm_model", help="Language model, such as openai/gpt-4o-mini.")
@click.option("--api-base", "lm_api_base", help="Base URL of the provider's API, including /v1.")
@click.option("--port", type=int, help="Port of /predict and /schema.  [default: 8080]")
@click.option("--probe-port", type=int, help="Port of the probes and metrics.  [default: 8081]")
def main(**given: str | int | None) -> None:
    """Serves MODEL: a directory that MLflow logged, or a models:/ uri of the registry at MLFLOW_TRACKING_URI.

    Every other setting is a DSPY_RUNTIME_* variable; what is given here goes before it.
    """
    # Without a handler the first process of a container ignores SIGTERM, and a pod that is deleted would load on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if not settings.model or not settings.lm_model:
        missing = "MODEL" if not settings.model else "--lm"
        raise click.UsageError(f"{missing} is missing: `dspy-runtime MODEL --lm openai/gpt-4o-mini`, see --help")
    logs.configure(settings.log_level)
    try:
        _serve(settings)
    except StartError as error:
        write_termination(settings.termination_log, error)
        log.error(str(error), reason=error.reason)
        sys.exit(1)


def _fetched(settings: Settings) -> Path:
    """The model's files. A registry that is down is waited for: that is no crash of this version."""
    from dspy_runtime.load import fetch

    while True:
        try:
            return fetch(settings.model, settings.work_folder)
        except RegistryUnavailableError as error:
            log.warning(f"{error}; trying again in {REGISTRY_RETRY_SECONDS} s", reason=error.reason)
            time.sleep(REGISTRY_RETRY_SECONDS)


def _serve(settings: Settings) -> None:
    from dspy_runtime.load import check_python, load_program

    folder = _fetched(settings)
    check_python(folder)
    os.environ.setdefault("DSPY_CACHEDIR", str(Path(settings.work_folder) / "dspy-cache"))
    program, adapter = load_program(folder)

    from dspy_runtime.lm import LanguageModel
    from dspy_runtime.server import serve
    from dspy_runtime.service import PredictionService

    service = PredictionService(program, adapter, LanguageModel(settings), settings)
    import uvloop

    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(service))


if __name__ == "__main__":
    main()
