"""Write the report of a run: page, Markdown, and tables as CSV and LaTeX."""

from pathlib import Path

from medcap_core.errors import RunFault
from medcap_core.runtime.cache import write_atomically
from medcap_core.runtime.progress import Progress, ignore_progress
from sweep.study.directory import show_run


def write_report(
    directory: Path,
    *,
    out: Path | None = None,
    with_images: bool = True,
    refresh_seconds: int | None = None,
    progress: Progress = ignore_progress,
) -> Path:
    """Write the report of the run in `directory`, into it or into the folder `out`; returns the path of the page.

    With `refresh_seconds` the page loads itself anew that often.
    Reads the run as it stands and takes no lock. Raises RunFault if `directory` is no run or `out` cannot be written.
    """
    from sweep.report.page import render_page
    from sweep.report.sections import build_report
    from sweep.study.results import load_results
    from sweep.tables.markdown import format_markdown
    from sweep.tables.text_files import format_csv, format_latex

    report = build_report(load_results(directory), with_images=with_images, progress=progress)
    folder = out or directory
    try:
        (folder / "tables").mkdir(parents=True, exist_ok=True)
        for table in report.tables:
            write_atomically(folder / "tables" / f"{table.name}.csv", format_csv(table))
            write_atomically(folder / "tables" / f"{table.name}.tex", format_latex(table))
        write_atomically(folder / "report.md", format_markdown(report))
        write_atomically(folder / "report.html", render_page(report, refresh_seconds))
    except OSError as error:
        raise RunFault(
            f"{folder}: the report cannot be written ({error.strerror}); free some space or choose another folder by "
            f"python -m sweep.report {show_run(directory)} --out DIR."
        ) from None
    return folder / "report.html"
