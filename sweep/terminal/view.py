"""The terminal output of a running sweep: one live table, or plain lines without a terminal. Independent of Ray."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.process.interrupts import raise_if_interrupted
from sweep.tables.formats import format_score, format_seconds
from sweep.tables.printing import TABLE_LOOK
from sweep.terminal.keys import reading_keys
from sweep.terminal.progress import StepProgress, SweepProgress, describe_changes, order_rows
from sweep.terminal.row import TrialRow

_REFRESHES_A_SECOND = 2  # trials need the cores more than the table does
_WIDE = 110  # columns from which the last score and a bar for each running trial are shown too
_MIN_ROWS = 3
_CAPTIONS_KEY = "c"

_STYLES = {
    "RUNNING": "cyan",
    "SUCCEEDED": "green",
    "PRUNED": "yellow",
    "STOPPED": "magenta",
    "FAILED": "red",
    "PENDING": "dim",
}
_QUIET_STATES = ("PRUNED", "STOPPED", "FAILED", "PENDING")


class SweepView:
    """The display of a running sweep; a context manager.

    On a terminal: `header_lines` once, then a table that is redrawn in place, running trials first, and lines of
    `message` above it; the caller keeps all other output off the terminal. Sample captions of running trials stand
    below the table where there is room; a key shows them in place of rows, or hides them. Elsewhere: one plain line for
    each change, without colours and not wrapped.
    """

    def __init__(
        self, console: Console, progress: SweepProgress, *, name: str, header_lines: Sequence[str] = ()
    ) -> None:
        self._console = console
        self._progress = progress
        self._name = name
        self._header_lines = header_lines
        self._last_shown: tuple[TrialRow, ...] | None = None
        self._step: StepProgress | None = None
        self._interrupted_step: StepProgress | None = None
        self._exits = ExitStack()
        self._read_keys: Callable[[], str] | None = None
        self._wants_samples: bool | None = None  # None: where there is room
        self._shows_samples = False
        live = Live(
            self, console=console, refresh_per_second=_REFRESHES_A_SECOND, vertical_overflow="crop",
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._live = live if console.is_interactive else None

    def __enter__(self) -> Self:
        for line in self._header_lines:
            self.message(line)
        with ExitStack() as exits:
            if self._live:
                self._read_keys = exits.enter_context(reading_keys())
                exits.callback(self._live.stop)
                self._live.start()
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._step = None  # an unfinished step is removed from the screen
        self._exits.close()

    def update(self, rows: Sequence[TrialRow]) -> None:
        """Show the present state of all trials that exist so far.

        Reasons of new failures stand above the table, whose rows are too short for them.
        """
        self._progress.update(rows)
        if not self._live:
            for line in describe_changes(self._last_shown, self._progress):
                self.message(f"[{format_seconds(self._progress.elapsed_seconds)}] {line}")
        elif self._last_shown is not None:  # failures of an earlier start were printed then
            known = {row.trial for row in self._last_shown if row.state == "FAILED"}
            for row in rows:
                if row.state == "FAILED" and row.trial not in known:
                    self._console.print(Text(f"{row.trial} FAILED: {row.note or row.label}", "red"), soft_wrap=True)
        self._last_shown = self._progress.rows

    def message(self, text: str) -> None:
        """Print one line: above the table, or among the plain lines."""
        self._console.print(Text(text), soft_wrap=True)

    def press(self, keys: str) -> None:
        """Show or hide the samples at each `c` among the keys pressed; shown so, they take the place of rows."""
        if keys.count(_CAPTIONS_KEY) % 2:
            self._wants_samples = not self._shows_samples

    def step(self, what: str, done: int, total: int) -> None:
        """Show the progress of a long step, which ends when `done` reaches `total`.

        Another step may interrupt it. A step of the same name after its end, such as for another model, is a new one.
        """
        raise_if_interrupted()
        before = self._step
        if before is None or before.what != what or (before.finished and done < total):
            waiting = self._interrupted_step
            goes_on = waiting is not None and (waiting.what, waiting.total) == (what, total) and done >= waiting.done
            self._step = waiting if goes_on else StepProgress(what, done, total, self._progress.clock)
            self._interrupted_step = None if before is None or before.finished else before
        elif before.finished:
            return
        assert self._step is not None
        self._step.done, self._step.total = done, total
        if self._step.finished or (not self._live and self._step.due()):
            self.message(self._step.describe())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Heed the keys pressed since the last frame, and render one, never taller than the screen."""
        if self._read_keys:
            self.press(self._read_keys())
        progress, step = self._progress, self._step
        steps = [_build_bar_line(step.done, step.total, step.describe())] if step and not step.finished else []
        if not progress.rows:
            yield Group(*steps)
            return
        room = max(_MIN_ROWS, console.height - 7 - len(steps))  # head, rule, "and more", gap, two last lines, cursor
        num_kept = {None: len(progress.rows), True: _MIN_ROWS, False: room}[self._wants_samples]
        samples = _build_samples(progress, max(room - num_kept - 1, 0) // 2)
        self._shows_samples = bool(samples)
        table = _build_table(self._name, progress, room - len(samples), options)
        total = _build_bar_line(progress.num_finished, progress.total_trials, progress.describe_done())
        has_key = self._read_keys is not None and bool(_list_sampled(progress))
        yield Group(table, Text(), *samples, *steps, total, _build_state_line(progress, has_key))


def _build_table(name: str, progress: SweepProgress, num_rows: int, options: ConsoleOptions) -> Table:
    rows, best = order_rows(progress.rows), progress.best
    wide, label = options.max_width >= _WIDE, progress.objective.short_label
    table = Table(expand=True, **TABLE_LOOK)
    table.add_column("")
    table.add_column(Text(name), no_wrap=True)
    table.add_column("state", no_wrap=True)
    if wide:
        table.add_column("", width=12)
    table.add_column("epoch", justify="right", no_wrap=True)
    if wide:
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("best" if wide else label, justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("config", ratio=1, no_wrap=True, overflow="ellipsis")
    for row in rows[:num_rows]:
        is_best = best is not None and row.trial == best.trial
        table.add_row(*_build_cells(row, is_best, wide, options), style="bold" if is_best else "")
    if num_hidden := len(rows[num_rows:]):
        table.add_row("", Text(f"... and {num_hidden} more", "dim"))
    return table


def _build_samples(progress: SweepProgress, most: int) -> list[Table | Text]:
    """Build two lines for each of the first running trials: a caption it wrote, and the reference."""
    lines: list[Table | Text] = []
    for trial, (caption, reference) in _list_sampled(progress)[:most]:
        head = f"{'reference'[: len(trial)]:{len(trial)}}"
        lines.append(Text(f"{trial}  {caption}", no_wrap=True, overflow="ellipsis"))
        lines.append(Text(f"{head}  {reference}", "dim", no_wrap=True, overflow="ellipsis"))
    return [*lines, Text()] if lines else []


def _list_sampled(progress: SweepProgress) -> list[tuple[str, tuple[str, str]]]:
    return [(row.trial, row.sample) for row in progress.rows if row.state == "RUNNING" and row.sample]


def _build_cells(row: TrialRow, is_best: bool, wide: bool, options: ConsoleOptions) -> list[Text | ProgressBar]:
    style = _STYLES.get(row.state, "")
    star = "*" if options.ascii_only else "★"
    quiet = "dim" if row.state in _QUIET_STATES and not is_best else ""
    bar = _build_bar(row.epochs_done, row.num_epochs, 12) if row.state == "RUNNING" else Text()
    config = Text(row.label, quiet)
    if row.note:
        note = Text(row.note, style)
        config = Text(", ").join([note, config] if row.state == "FAILED" else [config, note])
    return [
        Text(star if is_best else "", "green"),
        Text(row.trial),
        Text(row.state.lower(), style),
        *([bar] if wide else []),
        Text(f"{row.epochs_done}/{row.num_epochs}"),
        *([Text(format_score(row.last_score), quiet)] if wide else []),
        Text(format_score(row.best_score), "green" if is_best else ""),
        Text(format_seconds(row.seconds), quiet),
        config,
    ]


def _build_bar_line(done: int, total: int, text: str) -> Table:
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(width=20)
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_row(_build_bar(done, total, 20), Text(text))
    return line


def _build_state_line(progress: SweepProgress, has_key: bool) -> Text:
    best = progress.describe_best().replace("best so far", "best")  # so that all states fit beside it in 80 columns
    line = Text(best, "bold green" if progress.best else "", no_wrap=True, overflow="ellipsis")
    for state, style in _STYLES.items():
        if count := sum(row.state == state for row in progress.rows):
            line.append(f"  {count} {state.lower()}", f"not bold {style}")
    if has_key:
        line.append(f"  {_CAPTIONS_KEY}: captions", "not bold dim")
    return line


def _build_bar(done: int, total: int, width: int) -> ProgressBar:
    return ProgressBar(total, done, width=width, complete_style="cyan", finished_style="green")
