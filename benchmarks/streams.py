"""Every stream under every strategy, by the code that ships: how many healthy candidates go, how soon bad ones do.

BENCH_RELEASES sets how many releases each cell is made of (10,000 unless given, which takes ten minutes and more of
one core); BENCH_PLOT is a file for the picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import matplotlib
import numpy as np

from benchmarks.show import percentile, show
from dev.draws import until_lowered, until_too_dear
from dspy_operator.api import rollout
from dspy_operator.domain.analysis.judge import LEAST_USERS
from dspy_operator.domain.analysis.streams import SPENDS, streams_of

RELEASES = int(os.environ.get("BENCH_RELEASES", "10000"))
PLOT = os.environ.get("BENCH_PLOT", "")
MOST_HEALTHY, MOST_BAD = 1_000, 20_000
STRATEGIES = {
    "Canary, 10 %": (0.1, 0),
    "ABTest, half of the users": (0.5, LEAST_USERS),
    "BlueGreen, watched at 95 %": (0.95, 0),
    "Mirror, 20 % copied": (0.2 / 1.2, 0),
    "Conversations, 10 %": (0.1, LEAST_USERS),
}
"""The candidate's weight, and how many must be seen before anything is judged."""

RATES = {
    "failed": (0.01, 0.2),
    "refused": (0.01, 0.2),
    "left": (0.02, 0.2),
    "slow": (0.05, 0.3),
    "flagged": (0.02, 0.2),
}
"""How often answers are bad: stable's, and those of a candidate that is worse."""

TOO_DEAR = 2.0


@dataclass(frozen=True, slots=True)
class Cell:
    """Of one stream under one strategy: the share of healthy candidates that were lowered within MOST_HEALTHY of their
    requests, and requests until a worse one was."""

    false: float
    requests: list[int]


def main() -> None:
    """Prints the table, and draws it where it is asked to."""
    chance = np.random.default_rng(1)
    cells = {
        (name, strategy): _cell(chance, name, *about)
        for name in (*RATES, "tokens")
        for strategy, about in STRATEGIES.items()
        if name != SPENDS.name or not about[1]
    }
    rows = []
    for name in (*RATES, "tokens"):
        worse = f"{TOO_DEAR:g} times" if name == "tokens" else f"{RATES[name][0]:.0%} and {RATES[name][1]:.0%}"
        found = [cells.get((name, strategy)) for strategy in STRATEGIES]
        rows.append([name, worse, *(_in_words(cell) if cell else "not judged by users" for cell in found)])
    title = "Candidate requests (users) until lowered, median / 90th percentile; healthy ones lowered"
    title = f"{title} (alpha 0.1 %, n={RELEASES})"
    show(title, ["stream", "stable, candidate", *STRATEGIES], rows)
    if PLOT:
        _draw(cells)


def _cell(chance: np.random.Generator, name: str, weight: float, least: int) -> Cell:
    if name == SPENDS.name:
        return _measured(lambda worse, most: until_too_dear(chance, TOO_DEAR if worse else 1.0, weight, most))
    stable, candidate = RATES[name]
    own = streams_of((rollout.Stream("flagged", flag="flagged"),))
    stream = next(each for each in own if each.name == name)
    return _measured(
        lambda worse, most: until_lowered(
            chance, stable, candidate if worse else stable, weight, most, stream=stream, least=least
        )[0]
    )


def _measured(until: Callable[[bool, int], int]) -> Cell:
    false = sum(until(False, MOST_HEALTHY) < MOST_HEALTHY for _ in range(RELEASES)) / RELEASES
    return Cell(false, [until(True, MOST_BAD) for _ in range(RELEASES)])


def _in_words(cell: Cell) -> str:
    found = f"{median(cell.requests):,.0f} / {percentile(cell.requests, 90):,.0f}"
    return f"{found}; {cell.false:.2%}"


def _draw(cells: dict[tuple[str, str], Cell]) -> None:
    """The 10th to the 90th percentile as a bar, the median as a dot."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4))
    names = [*RATES, "tokens"]
    width = 0.8 / len(STRATEGIES)
    for place, strategy in enumerate(STRATEGIES):
        judged = [number for number, name in enumerate(names) if (name, strategy) in cells]
        found = [cells[names[number], strategy].requests for number in judged]
        low, middle, high = ([percentile(each, percent) for each in found] for percent in (10, 50, 90))
        at = [number + (place - (len(STRATEGIES) - 1) / 2) * width for number in judged]
        axes.vlines(at, low, high, linewidth=5, alpha=0.35, color=f"C{place}")
        axes.plot(at, middle, "o", color=f"C{place}", label=strategy)
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), [f"{name}\n{_rates(name)}" for name in names])
    axes.set_ylabel("candidate requests (users)")
    axes.set_title("Until a worse candidate loses its traffic: median, 10 to 90 % of releases", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def _rates(name: str) -> str:
    return f"{TOO_DEAR:g}x" if name == SPENDS.name else f"{RATES[name][0]:.0%} → {RATES[name][1]:.0%}"
