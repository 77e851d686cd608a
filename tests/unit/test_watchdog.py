"""Whose fault it is that all requests stand still: a line of the program's, or nobody's."""

from __future__ import annotations

import threading

from dspy_runtime.error_report import frames_of_thread


def test_a_thread_that_is_in_no_line_of_a_program_names_none() -> None:
    """So an idle loop of a pod without CPU accuses nobody."""
    begun, end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        end.wait(10)

    for thread, named in (
        (threading.Thread(target=end.wait, args=(10,)), False),
        (threading.Thread(target=wait), True),
    ):
        thread.start()
        if named:
            begun.wait(10)
        assert thread.ident is not None
        frames = frames_of_thread(thread.ident)
        assert bool(frames) == named
        assert not named or "test_watchdog.py" in frames[-1]
    end.set()
