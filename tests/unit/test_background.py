"""The loop that carries the calls of threads: one, whoever asks first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dspy_runtime.lm import background


def test_threads_that_ask_at_once_get_the_same_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = [], threading.Barrier(8)

    class Slow:
        def __init__(self) -> None:
            made.append(self)
            threading.Event().wait(0.05)

    def ask(_: int) -> object:
        asked.wait()
        return background.background()

    monkeypatch.setattr(background, "BackgroundLoop", Slow)
    background._made.cache_clear()
    try:
        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(ask, range(8)))
    finally:
        background._made.cache_clear()
    assert len(made) == len(found) == 1
