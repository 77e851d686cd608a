"""What of a program's exception is logged: the classes of its chain and the program's own frames.

An exception's words may hold what a user asked, so they stay in the process unless a setting says otherwise; anything
like a key is struck out of them.
"""

from __future__ import annotations

import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from dspy_runtime.redaction import without_keys

_PATHS = sysconfig.get_paths()
_LIBRARIES = tuple({_PATHS["stdlib"], _PATHS["purelib"], _PATHS["platlib"], str(Path(__file__).parent)})
MOST_FRAMES, LONGEST_MESSAGE = 20, 2_000


def report(error: BaseException, with_words: bool) -> dict[str, Any]:
    """Fields of a log line: the classes from the outermost to the cause, `file:line function` of the program's frames,
    and each exception's words where they are wanted."""
    chain = _chain(error)
    frames = [frame for each in chain for frame in traceback.extract_tb(each.__traceback__)]
    return {
        "classes": [f"{type(each).__module__}.{type(each).__qualname__}" for each in chain],
        "frames": _lines(_own(frames) or frames[-1:]),
        **({"messages": [without_keys(str(each))[:LONGEST_MESSAGE] for each in chain]} if with_words else {}),
    }


def frames_of_thread(thread: int) -> list[str]:
    """`file:line function` of the program's frames that a thread is in now; none while it is in no line of it."""
    frame = sys._current_frames().get(thread)
    return _lines(_own(list(traceback.extract_stack(frame)))) if frame is not None else []


def _own(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """The program's: of no library, and of no code that Python made itself. (A notebook's have odd names as well.)"""
    return [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, "<frozen ", "<string>"))]


def _lines(frames: list[traceback.FrameSummary]) -> list[str]:
    lines = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return lines[-MOST_FRAMES:]


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and all(following is not each for each in chain):
        chain.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return chain
