"""Command that writes a cohort's table of scans: python -m medcap_core.data.cohorts --help."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from medcap_core.data.cohorts import COHORTS, find_cohort_scans, write_scan_table
from medcap_core.errors import DataFault
from medcap_core.runtime.command_line import exit_on_fault

_NUM_LISTED = 5


def main(
    cohort: Annotated[str, typer.Argument(help=f"One of {', '.join(COHORTS)}.")],
    table: Annotated[list[Path], typer.Option(help="A CSV table of the cohort; repeat it for several.")],
    images: Annotated[Path, typer.Option(help="Folder with the volumes, searched to its depth.")],
    out: Annotated[Path, typer.Option(help="The table to write: path, report, cohort, subject.")] = Path("scans.csv"),
    only: Annotated[str, typer.Option(help="Pattern for the names of volumes, such as '*T1w*'.")] = "*",
) -> None:
    """Write the table of scans of one cohort, for the `data` of a sweep."""
    with exit_on_fault():
        if not out.absolute().parent.is_dir():
            raise DataFault(f"--out {out}: the folder {out.absolute().parent} does not exist; make it first.")
        sys.stdout.write(f"Looking for volumes in {images}\n")
        found = find_cohort_scans(cohort, table, images, only)
        write_scan_table(found, out)
        counts = Counter(visit.diagnosis for _, visit in found.scans)
        known = ", ".join(f"{counts[diagnosis]} {diagnosis}" for diagnosis in counts if diagnosis is not None)
        num_subjects = len({visit.subject for _, visit in found.scans})
        sys.stdout.write(
            f"{len(found.scans)} scans of {num_subjects} subjects ({known or 'none diagnosed'}; {counts[None]} without "
            f"a diagnosis) written to {out}\n"
        )
        if found.unmatched:
            sys.stdout.write(f"{len(found.unmatched)} volumes left out:\n")
            sys.stdout.writelines(f"  {path}: {reason}\n" for path, reason in found.unmatched[:_NUM_LISTED])
            if len(found.unmatched) > _NUM_LISTED:
                sys.stdout.write(f"  ... and {len(found.unmatched) - _NUM_LISTED} more\n")


if __name__ == "__main__":
    typer.run(main)
