"""What a new user sees: the demo's story, from beginning to end."""

from __future__ import annotations

import io
import re

from rich.console import Console

from dev.cluster.interface import Cluster
from dev.demo.__main__ import play


def test_the_demo_promotes_the_better_version_and_takes_the_bad_one_back(cluster: Cluster) -> None:
    file = io.StringIO()
    play(Console(file=file, width=200, soft_wrap=True), cluster)
    told = file.getvalue()
    failed = re.search(r"Failed, all of them at the bad version +(\d+) of (\d+)", told)
    assert failed is not None
    assert failed[1] == failed[2] != "0"
    assert re.search(r"Lost to a switch of traffic +0\b", told)
