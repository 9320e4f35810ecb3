"""What benchmarks say: tables in Markdown on standard output, progress on standard error."""

import sys
from collections.abc import Iterable, Sequence


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print one table, row by row as they come; numbers are rounded to three digits."""
    print(f"| {' | '.join(header)} |", f"| {' | '.join('---' for _ in header)} |", sep="\n", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(show, row))} |", flush=True)
    print(flush=True)


def show(value: object) -> str:
    """Format a cell: a number to three digits, or to the unit where it is larger; None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def tell(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)
