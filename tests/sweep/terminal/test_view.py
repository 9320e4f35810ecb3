import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from medcap_core.objective import Objective, read_objective
from sweep.terminal.progress import SweepProgress, describe_changes
from sweep.terminal.row import TrialRow
from sweep.terminal.view import SweepView

CIDER = Objective()


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def row(number, state="RUNNING", epoch=0, num_epochs=4, best=None, *, last=None, seconds=0.0, note=""):
    score = best if last is None else last
    return TrialRow(f"t{number:02}", f"lora r{number}", state, epoch, num_epochs, best, score, seconds, note)


def build_console(width=100, height=24, **settings):
    defaults = {"force_terminal": True, "color_system": "truecolor", "file": io.StringIO(), "_environ": {}}
    return Console(width=width, height=height, **(defaults | settings))


def build_view(console, clock, total_trials=12, name="lora", objective=CIDER):
    progress = SweepProgress(total_trials, objective, clock=clock)
    return SweepView(console, progress, name=name, header_lines=["Data: phantoms"])


def render(view, console):
    """The frame as lines of text, without styles."""
    return ["".join(segment.text for segment in line).rstrip() for line in console.render_lines(view)]


# The table


def test_samples_of_running_trials_stand_below_the_table_where_there_is_room(clock):
    sample = ("the heart is large", "the heart is of normal size")
    rows = [replace(row(1), sample=sample), replace(row(2, "SUCCEEDED", 4, best=0.5), sample=sample), row(3)]
    console = build_console(width=80, height=24)
    view = build_view(console, clock)
    view.update(rows)
    lines = render(view, console)
    at = lines.index("t01  the heart is large")
    assert lines[at + 1] == "ref  the heart is of normal size"
    assert not [line for line in lines if line.startswith("t02  ")]
    assert len(lines) <= 24
    console = build_console(width=80, height=11)
    view = build_view(console, clock)
    view.update(rows)
    assert not [line for line in render(view, console) if sample[0] in line]


def test_a_key_shows_samples_in_place_of_rows_and_hides_them(clock):
    rows = [replace(row(i), sample=(f"caption {i}", f"truth {i}")) for i in range(12)]
    console = build_console(width=80, height=16)
    view = build_view(console, clock)
    view.update(rows)
    fitting = render(view, console)
    assert not any("truth" in line for line in fitting)
    view.press("c")
    shown = render(view, console)
    assert sum(line.startswith("ref  truth") for line in shown) == 2
    assert len(shown) <= len(fitting)
    view.press("xcq")
    assert render(view, console) == fitting


def test_table_at_80_columns(clock):
    console = build_console(width=80)
    view = build_view(console, clock)
    view.update([row(1)])
    clock.now = 60.0
    view.update(
        [
            row(1, "SUCCEEDED", 4, 4, 2.5, last=2.25, seconds=55),
            row(2, "PRUNED", 2, 4, 1.0, seconds=30),
            row(3, "FAILED", 1, 4, 9.0, seconds=9, note="no memory"),
            row(4, "RUNNING", 3, 6, 3.125, last=3.0, seconds=65),
            row(5, "PENDING"),
            row(6, "SUCCEEDED", 3, 3, 2.75, seconds=3700),
            row(7, "RUNNING", 0, 2, seconds=7, note="training 3/50"),
        ]
    )
    assert render(view, console) == [
        "   lora  state      epoch  CIDEr     time  config",
        "─" * 80,
        "★  t04   running      3/6  3.125     1:05  lora r4",
        "   t07   running      0/2      -     0:07  lora r7, training 3/50",
        "   t06   succeeded    3/3  2.750  1:01:40  lora r6",
        "   t01   succeeded    4/4  2.500     0:55  lora r1",
        "   t02   pruned       2/4  1.000     0:30  lora r2",
        "   t03   failed       1/4  9.000     0:09  no memory, lora r3",
        "   t05   pending      0/4      -     0:00  lora r5",
        "",
        "━" * 6 + "╸" + "━" * 13 + "  4 of 12 trials done, 1:00 elapsed, about 1:51 left",
        "best 3.125 (t04)  2 running  2 succeeded  1 pruned  1 failed  1 pending",
    ]


def test_a_wide_table_adds_bars_and_the_last_cider(clock):
    console = build_console(width=140)
    view = build_view(console, clock)
    view.update([row(1, epoch=1, num_epochs=2, best=1.5, last=1.25, seconds=61)])
    lines = render(view, console)
    assert lines[0] == "   lora  state                  epoch  CIDEr   best  time  config"
    assert lines[2] == "★  t01   running  ━━━━━━╺━━━━━    1/2  1.250  1.500  1:01  lora r1"


def test_another_metric_goes_by_its_own_name(clock):
    console, objective = build_console(width=80), read_objective("balanced_accuracy")
    view = build_view(console, clock, objective=objective)
    view.update([row(1, epoch=1, best=0.5)])
    assert render(view, console)[0] == "   lora  state    epoch  bal.acc.  time  config"
    plain = io.StringIO()
    lines = build_view(
        build_console(file=plain, force_terminal=False), clock, objective=read_objective("balanced_accuracy")
    )
    lines.update([row(1)])
    lines.update([row(1, epoch=1, best=0.5, last=0.25)])
    lines.update([row(1, "SUCCEEDED", 4, best=0.5)])
    _, epoch, end = plain.getvalue().splitlines()
    assert epoch.endswith("epoch 1/4, 0:00: balanced accuracy 0.250; best so far 0.500 (t01)")
    assert "best balanced accuracy 0.500; best so far 0.500 (t01)" in end


@pytest.mark.parametrize("width", [60, 80, 110, 200])
@pytest.mark.parametrize("height", [12, 24])
def test_every_frame_fits_the_screen(clock, width, height):
    console = build_console(width=width, height=height)
    view = build_view(console, clock, total_trials=40)
    note = "a reason far longer than one line of any screen " * 6
    view.step("decode images", 3, 1000)
    view.update([row(i, "FAILED" if i % 2 else "RUNNING", 1, 9, i / 8, seconds=1e5, note=note) for i in range(31)])
    lines = render(view, console)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert sum("... and" in line for line in lines) == 1
    num_shown = sum(bool(re.search(r"\bt\d\d ", line)) for line in lines)
    assert f"... and {31 - num_shown} more" in "\n".join(lines)


def test_the_best_row_stands_out_and_failed_trials_never_do(clock):
    console = build_console()
    view = build_view(console, clock)
    view.update([row(1, "SUCCEEDED", 4, 4, 2.0), row(2, "FAILED", 4, 4, 5.0), row(3, "RUNNING", 1, 4, float("nan"))])
    starred = [line for line in console.render_lines(view) if line[0].text == "★"]
    assert len(starred) == 1
    assert "t01" in "".join(segment.text for segment in starred[0])
    assert all(segment.style.bold for segment in starred[0] if segment.text.strip() not in {"", "★"})


def test_an_ascii_terminal_gets_ascii(clock):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = build_console(file=file)
    view = build_view(console, clock)
    view.update([row(1, "SUCCEEDED", 4, 4, 2.0), row(2, epoch=1)])
    view.step("decode images", 1, 3)
    assert "\n".join(render(view, console)).isascii()


def test_brackets_are_no_markup(clock):
    console = build_console()
    view = build_view(console, clock, name="[red]x[/red]")
    view.update([TrialRow("t[b]1", "[bold]lr[/bold] :smile:", "RUNNING", 0, 1, None, None, 0, "[/nope]")])
    view.message("[a] message [/b] :smile:")
    text = "\n".join(render(view, console))
    assert "[red]x[/red]" in text
    assert "t[b]1" in text
    assert "[bold]lr[/bold] :smile:, [/nope]" in text
    assert "[a] message [/b] :smile:\n" in console.file.getvalue()


def test_live_session_keeps_messages_and_the_last_frame(clock):
    console = build_console()
    with build_view(console, clock, total_trials=2) as view:
        view.update([row(1)])
        view.message("Evaluation checked.")
        view.update([row(1, "FAILED", note="loss became NaN at step 12"), row(2, "SUCCEEDED", 4, 4, 2.0)])
        view.update([row(1, "FAILED", note="loss became NaN at step 12"), row(2, "SUCCEEDED", 4, 4, 2.0)])
        view.step("test evaluation", 1, 3)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert text.count("Data: phantoms") == 1
    assert text.count("Evaluation checked.") == 1
    assert text.count("t01 FAILED: loss became NaN at step 12") == 1
    last_lines = [line.strip() for line in text.splitlines() if line.strip()][-2:]
    assert last_lines[0].endswith("2 of 2 trials done, 0:00 elapsed")
    assert last_lines[1] == "best 2.000 (t02)  1 succeeded  1 failed"


def test_failures_of_an_earlier_start_are_not_told_again(clock):
    console = build_console()
    build_view(console, clock).update([row(1, "FAILED", note="no memory"), row(2)])
    assert console.file.getvalue() == ""


def test_a_live_step_shows_while_it_lasts_and_leaves_one_line(clock):
    console = build_console()
    view = build_view(console, clock)
    view.step("decode images", 0, 4000)
    assert render(view, console)[0].endswith("decode images: 0 of 4,000")
    clock.now = 30.0
    view.step("decode images", 1000, 4000)
    assert render(view, console)[0].endswith("decode images: 1,000 of 4,000, about 1:30 left")
    assert console.file.getvalue() == ""
    clock.now = 121.0
    view.step("decode images", 4000, 4000)
    view.step("decode images", 4000, 4000)
    assert console.file.getvalue() == "decode images: 4,000 done in 2:01\n"
    assert render(view, console) == []


# Plain lines


def build_plain(clock, total_trials=4):
    console = build_console(force_terminal=False, color_system="auto", width=40)
    return build_view(console, clock, total_trials=total_trials), console


def take(console):
    """Lines printed since the last call."""
    lines = console.file.getvalue().splitlines()
    console.file.seek(0)
    console.file.truncate()
    return lines


def test_plain_lines_tell_each_change_once(clock):
    view, console = build_plain(clock)
    with view:
        assert take(console) == ["Data: phantoms"]
        view.update([row(1, note="loading"), row(2, "PENDING")])
        assert take(console) == ["[0:00] t01 started: lora r1"]
        view.update([row(1, note="training 3/50"), row(2, "PENDING")])
        assert take(console) == []
        clock.now = 30.0
        view.update([row(1, epoch=1, best=1.5, seconds=30), row(2)])
        assert take(console) == [
            "[0:30] t01 epoch 1/4, 0:30: CIDEr 1.500; best so far 1.500 (t01)",
            "[0:30] t02 started: lora r2",
        ]
        clock.now = 60.0
        view.update([row(1, epoch=3, best=1.5, last=1.25, seconds=60), row(2, epoch=1, best=2.0, seconds=30)])
        assert take(console) == [
            "[1:00] t01 epoch 3/4, 1:00: CIDEr 1.250; best so far 2.000 (t02)",
            "[1:00] t02 epoch 1/4, 0:30: CIDEr 2.000; best so far 2.000 (t02)",
        ]
        clock.now = 75.0
        view.update(
            [
                row(1, "SUCCEEDED", 4, best=1.75, seconds=75),
                row(2, "FAILED", 1, best=2.0, seconds=40, note="out of memory"),
            ]
        )
        # 5 epochs in 75 s; the two trials to come last 4 epochs each, like the one that succeeded.
        assert take(console) == [
            "[1:15] t01 SUCCEEDED after 4 of 4 epochs, 1:15: best CIDEr 1.750; best so far 1.750 (t01); "
            "2 of 4 trials done, 1:15 elapsed, about 2:00 left",
            "[1:15] t02 FAILED after 1 of 4 epochs, 0:40 (out of memory): best CIDEr 2.000; best so far 1.750 (t01); "
            "2 of 4 trials done, 1:15 elapsed, about 2:00 left",
        ]


def test_plain_lines_of_a_resumed_sweep(clock):
    view, console = build_plain(clock)
    view.update([row(1, "SUCCEEDED", 4, best=2.5), row(2, "PRUNED", 1, best=1.0), row(3, "PENDING", 2, best=1.5)])
    assert take(console) == ["[0:00] 2 of 4 trials are done; best so far 2.500 (t01)"]
    view.update([row(1, "SUCCEEDED", 4, best=2.5), row(2, "PRUNED", 1, best=1.0), row(3, "RUNNING", 2, best=1.5)])
    assert take(console) == ["[0:00] t03 started after epoch 2: lora r3"]


def test_plain_line_of_a_trial_whose_process_died(clock):
    view, console = build_plain(clock)
    view.update([row(1, epoch=2, best=1.0)])
    take(console)
    view.update([row(1, "PENDING", 2, best=1.0, note="its process died")])
    assert take(console) == ["[0:00] t01 waits to go on after epoch 2 (its process died)"]


def test_plain_output_has_no_escape_codes_and_no_wrapping(clock):
    view, console = build_plain(clock)
    with view:
        view.message("a message far longer than the forty columns of this console, in one line")
        view.update([row(1, epoch=1, best=1.0)])
        view.update([row(1, "FAILED", 1, best=1.0, note="a long reason " * 9)])
        view.step("decode images", 1, 3)
    text = console.file.getvalue()
    assert "\x1b" not in text
    assert len(text.splitlines()) == 6


def test_a_dumb_terminal_gets_plain_lines(clock):
    console = build_console(_environ={"TERM": "dumb"})
    with build_view(console, clock) as view:
        view.update([row(1)])
    assert console.file.getvalue() == "Data: phantoms\n[0:00] t01 started: lora r1\n"


def test_plain_step_lines_come_seldom(clock):
    view, console = build_plain(clock)
    for second in range(1001):
        clock.now = float(second)
        view.step("decode images", second * 4, 4000)
    lines = take(console)
    assert lines[0] == "decode images: 0 of 4,000"
    assert lines[1] == "decode images: 240 of 4,000, about 15:40 left"  # a minute, less than a tenth
    assert lines[-1] == "decode images: 4,000 done in 16:40"
    assert len(lines) == 18


def test_plain_lines_of_a_fast_step(clock):
    view, console = build_plain(clock)
    for done in range(101):
        clock.now = done * 0.3
        view.step("encode images", done, 100)
    assert take(console) == [
        "encode images: 0 of 100",
        "encode images: 34 of 100, about 0:20 left",
        "encode images: 68 of 100, about 0:10 left",
        "encode images: 100 done in 0:30",
    ]
    view.step("encode images", 100, 100)
    assert take(console) == []
    view.step("encode images", 0, 50)  # for another model
    clock.now += 5.0
    view.step("encode images", 50, 50)
    assert take(console) == ["encode images: 0 of 50", "encode images: 50 done in 0:05"]
    view.step("test evaluation", 0, 0)
    assert take(console) == ["test evaluation: 0 done in 0:00"]


def test_a_step_that_waits_for_another_keeps_its_time(clock):
    view, console = build_plain(clock)
    view.step("score", 0, 2)
    clock.now += 2.0
    view.step("describe", 0, 3)
    clock.now += 3.0
    view.step("describe", 3, 3)
    clock.now += 4.0
    view.step("score", 2, 2)
    assert take(console)[-2:] == ["describe: 3 done in 0:03", "score: 2 done in 0:09"]


# Progress


def test_time_left_counts_down_between_epochs(clock):
    progress = SweepProgress(3, CIDER, clock=clock)
    clock.now = 100.0  # preparation says nothing about the speed of trials
    progress.update([row(1), row(2)])
    assert progress.seconds_left is None
    clock.now = 110.0
    progress.update([row(1, epoch=1), row(2)])
    assert progress.seconds_left == pytest.approx(110)  # 3 + 4 + 4 epochs of 10 s
    clock.now = 115.0
    assert progress.seconds_left == pytest.approx(105)
    clock.now = 1000.0
    assert progress.seconds_left == 0


def test_time_left_learns_from_pruning_and_ignores_earlier_starts(clock):
    progress = SweepProgress(10, CIDER, clock=clock)
    progress.update([row(1, "SUCCEEDED", 4), row(2, "RUNNING", 1)])
    clock.now = 20.0
    progress.update([row(1, "SUCCEEDED", 4), row(2, "PRUNED", 2)])
    assert progress.seconds_left == pytest.approx(8 * 3 * 20)
    limited = SweepProgress(10, CIDER, 100.0, clock)
    limited.update([row(1, "RUNNING", 1)])
    clock.now = 40.0
    limited.update([row(1, "RUNNING", 2)])
    assert limited.seconds_left == pytest.approx(80)  # 20 s after its start


def test_rows_beyond_the_plan_raise_the_total(clock):
    progress = SweepProgress(1, CIDER, clock=clock)
    progress.update([row(1), row(2)])
    assert progress.total_trials == 2
    assert progress.describe_best() == "no score yet"
    assert describe_changes(progress.rows, progress) == []
