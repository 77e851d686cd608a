"""The judgement's tables by the code that ships: requests until lowered, until no worse, and false alarms.

BENCH_RELEASES sets how many releases each cell is made of (100 unless given; the published tables used 4,000).
"""

from __future__ import annotations

import os
from statistics import median

import numpy as np

from benchmarks.show import percentile, show
from dev.draws import until_lowered, until_no_worse
from tests.simulation.stress import FAULTS, HEALTHY, endings

RELEASES = int(os.environ.get("BENCH_RELEASES", "100"))
MOST = 10_000
PUBLISHED_LOWERED = {
    (0.001, 0.02): (248, 485, 5),
    (0.001, 0.05): (72, 155, 4),
    (0.001, 0.1): (31, 67, 3),
    (0.001, 0.2): (14, 28, 3),
    (0.001, 1.0): (3, 3, 3),
    (0.01, 0.05): (214, 406, 12),
    (0.01, 0.1): (66, 130, 7),
    (0.01, 0.2): (24, 48, 5),
    (0.01, 1.0): (3, 5, 3),
    (0.05, 0.2): (69, 130, 15),
    (0.05, 0.5): (14, 24, 7),
    (0.05, 1.0): (5, 7, 5),
}
PUBLISHED_NO_WORSE = {
    (0.0, 0.01): (354, 379),
    (0.0, 0.05): (70, 82),
    (0.001, 0.02): (171, 336),
    (0.01, 0.02): (348, 750),
    (0.01, 0.05): (70, 194),
}
WEIGHTS = (0.01, 0.05, 0.5)
FALSE_ALPHA = 0.05


def main() -> None:
    """Prints the tables."""
    chance = np.random.default_rng(1)
    rows = []
    for (stable, candidate), published in PUBLISHED_LOWERED.items():
        found = [until_lowered(chance, stable, candidate, 0.05, MOST) for _ in range(RELEASES)]
        requests, bad = [each[0] for each in found], [each[1] for each in found]
        now = f"{median(requests):.0f} / {percentile(requests, 90):.0f} ({median(bad):.0f})"
        rows.append([f"{stable:.1%}", f"{candidate:.0%}", now, f"{published[0]} / {published[1]} ({published[2]})"])
    title = f"Candidate requests until lowered, median / 90th percentile (bad answers), weight 5% (n={RELEASES})"
    show(title, ["stable", "candidate", "now", "published"], rows)
    rows = []
    for (stable, margin), expected in PUBLISHED_NO_WORSE.items():
        until = [until_no_worse(chance, stable, stable, margin, MOST) for _ in range(RELEASES)]
        now = f"{median(until):.0f} / {percentile(until, 90):.0f}"
        rows.append([f"{stable:.1%}", f"{margin:.0%}", now, f"{expected[0]} / {expected[1]}"])
    show(f"Candidate requests until no worse (n={RELEASES})", ["stable", "margin", "now", "published"], rows)
    rows = []
    for weight in WEIGHTS:
        false = sum(until_lowered(chance, 0.01, 0.01, weight, 1_000, FALSE_ALPHA)[0] < 1_000 for _ in range(RELEASES))
        rows.append([f"{weight:.0%}", f"{false / RELEASES:.1%}", f"at most {FALSE_ALPHA:.0%}"])
    show(f"Healthy candidates lowered within 1,000 requests, alpha 5% (n={RELEASES})", ["weight", "now", "bound"], rows)
    _stresses()


def _stresses() -> None:
    """Releases event by event: tables of a gateway, looks of the guard, answers that come late."""
    rows = []
    for stress in HEALTHY:
        lowered = sum(each.lowered_after is not None for each in endings(stress, RELEASES))
        rows.append([stress.name, f"{lowered} of {RELEASES}", "0 of 120"])
    show("Healthy candidates lowered, event by event", ["stress", "now", "published"], rows)
    rows = []
    for stress, published in FAULTS:
        found = endings(stress, RELEASES)
        after = [each.lowered_after for each in found if each.lowered_after is not None]
        confirmed = f"{sum(each.confirmed for each in found)} of {RELEASES}"
        bad = f"{median(each.bad_answers for each in found):.0f}"
        rows.append([stress.name, f"{median(after):.1f} s", f"{published:.1f} s", bad, confirmed])
    title = f"Seconds until lowered, weight 10%, 20 requests a second (n={RELEASES})"
    show(title, ["fault", "now", "published", "failed answers", "then refused"], rows)
