"""`python -m dspy_runtime MODEL`: serves one version of one program, from a directory or a `models:/` uri."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import click

from dspy_contract import logs
from dspy_contract.garbage import collect_rarely
from dspy_runtime.failures import explained
from dspy_runtime.settings import Settings, quiet_libraries


@click.command()
@click.argument("model", required=False)
@click.option("--lm", "lm_model", help="Language model, such as openai/gpt-4o-mini.")
@click.option("--api-base", "lm_api_base", help="Base URL of the provider's API, including /v1.")
@click.option("--port", type=int, help="Port of /predict and /schema.  [default: 8080]")
@click.option("--probe-port", type=int, help="Port of the probes and metrics.  [default: 8081]")
def main(lm_model: str | None, lm_api_base: str | None, **given: str | int | None) -> None:
    """Serves MODEL: a directory that MLflow logged, or a models:/ uri of the registry at MLFLOW_TRACKING_URI.

    Every other setting is a DSPY_RUNTIME_* variable; what is given here goes before it.
    """
    # Without a handler the first process of a container ignores SIGTERM, and a pod that is deleted would load on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    quiet_libraries()
    settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    for name, value in (("model", lm_model), ("api_base", lm_api_base)):
        if value is not None:
            setattr(settings.lm, name, value)
    if not settings.model or not settings.lm.model:
        missing = "MODEL" if not settings.model else "--lm"
        raise click.UsageError(f"{missing} is missing: `dspy-runtime MODEL --lm openai/gpt-4o-mini`, see --help")
    logs.configure(settings.log_level)
    with explained(settings.termination_log):
        _serve(settings)


def _serve(settings: Settings) -> None:
    from dspy_runtime.artifact import fetched
    from dspy_runtime.load import check_python, load_program

    folder = fetched(settings.model, settings.work_folder / "model", settings.digest)
    check_python(folder)
    os.environ.setdefault("DSPY_CACHEDIR", str(Path(settings.work_folder) / "dspy-cache"))
    loaded = load_program(folder)

    from dspy_runtime.server import serve
    from dspy_runtime.service import PredictionService

    service = PredictionService(loaded, settings)
    import uvloop

    collect_rarely()

    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(serve(service))
        sys.stdout.flush()
        os._exit(code)  # Python would wait for threads that hang


if __name__ == "__main__":
    main()
