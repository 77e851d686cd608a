"""The judgement's tables by the code that ships: false rollbacks, requests until a bad candidate is found, until no
worse.

BENCH_RELEASES sets how many releases each cell is made of (100 unless given; the published tables used 10,000).
"""

from __future__ import annotations

import os
import random
from statistics import median

from benchmarks.show import percentile, show
from tests.simulation.releases import requests_until_no_worse, requests_until_worse

RELEASES = int(os.environ.get("BENCH_RELEASES", "100"))
PUBLISHED_DETECTION = {
    (0.0, 0.05): (66, 130),
    (0.0, 0.2): (17, 31),
    (0.0, 1.0): (3, 4),
    (0.01, 0.1): (86, 158),
    (0.01, 0.2): (32, 59),
    (0.01, 1.0): (3, 5),
    (0.05, 0.2): (87, 153),
    (0.05, 0.5): (17, 29),
    (0.05, 1.0): (5, 7),
}
PUBLISHED_NO_WORSE = {
    (0.0, 0.02): (150, 150),
    (0.0, 0.05): (59, 59),
    (0.001, 0.02): (150, 323),
    (0.01, 0.05): (60, 181),
}
WEIGHTS = (0.01, 0.05, 0.1, 0.5)


def main() -> None:
    """Prints the tables."""
    chance = random.Random(1)
    rows = []
    for (stable, candidate), published in PUBLISHED_DETECTION.items():
        found = [requests_until_worse(chance, stable, candidate, 0.05, 0.001, 5_000) or 5_000 for _ in range(RELEASES)]
        rows.append(
            [
                f"{stable:.1%}",
                f"{candidate:.0%}",
                f"{median(found):.0f} / {percentile(found, 90):.0f}",
                f"{published[0]} / {published[1]}",
            ]
        )
    show(
        f"Candidate requests until rollback, median / 90th percentile, weight 5% (n={RELEASES})",
        ["stable", "candidate", "now", "published"],
        rows,
    )
    rows = []
    for (stable, margin), published in PUBLISHED_NO_WORSE.items():
        found = [
            requests_until_no_worse(chance, stable, stable, margin, 0.05, 20_000) or 20_000 for _ in range(RELEASES)
        ]
        rows.append(
            [
                f"{stable:.1%}",
                f"{margin:.0%}",
                f"{median(found):.0f} / {percentile(found, 90):.0f}",
                f"{published[0]} / {published[1]}",
            ]
        )
    show(f"Candidate requests until no worse (n={RELEASES})", ["stable", "margin", "now", "published"], rows)
    rows = []
    for weight in WEIGHTS:
        false = sum(requests_until_worse(chance, 0.01, 0.01, weight, 0.05, 2_000) is not None for _ in range(RELEASES))
        rows.append([f"{weight:.0%}", f"{false / RELEASES:.1%}", "at most 5%"])
    show(
        f"Healthy candidates rolled back within 2,000 requests, alpha 5% (n={RELEASES})",
        ["weight", "now", "bound"],
        rows,
    )
