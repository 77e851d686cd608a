"""How figures are printed: one table a bench, with the aim and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table

CONSOLE = Console(highlight=False, width=140)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table."""
    table = Table(*columns, title=title, title_justify="left", box=None, padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    CONSOLE.print(table)
    CONSOLE.print()


def spread(values: Sequence[float], unit: str = "s", digits: int = 2) -> str:
    """Median, with the least and the greatest."""
    return f"{median(values):.{digits}f} {unit} ({min(values):.{digits}f} to {max(values):.{digits}f}, n={len(values)})"


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile of at least two values."""
    return quantiles(values, n=100)[percent - 1]
