"""The command line: read, check, launch, print where the results are.

python -m sweep.run lora
python -m sweep.run my_space.yaml --data FOLDER
python -m sweep.run --resume runs/lora-001
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from medcap_core.errors import ConfigFault, UserFault
from medcap_core.runtime.command_line import exit_on_fault, quick_imports
from sweep.process.environment import set_environment
from sweep.process.interrupts import install_interrupt_handlers
from sweep.process.log_target import LogTarget, prepare_log
from sweep.space import SearchSpace, apply_overrides, build_space, find_space, load_space, num_trials
from sweep.study.directory import check_writable, next_run_directory
from sweep.study.mirror import check_new_place, find_run

if TYPE_CHECKING:
    from sweep.study.results import RunResults
    from sweep.study.study import Study
    from sweep.study.warm_start import WarmStart

_MOST_DIGITS = 9


@dataclass(frozen=True)
class _Start:
    """How a run starts, whatever it tries; `ending` prints a fault before Ray ends, which may take seconds."""

    address: str | None = None
    log_to: LogTarget | None = None
    ending: Callable[[], AbstractContextManager[None]] = exit_on_fault


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    space: Annotated[str | None, typer.Argument(help="A ready space, such as lora, or a space file.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set: phantoms, rocov2, a Hub name, a path or a URL (s3://...).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model: phantom-blip, a Hub name or a path.")] = None,
    trials: Annotated[str | None, typer.Option(help="Number of trials; with --resume, +N adds N.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search and of its trials.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, for several keys; with --resume for those that change no result."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Run directory or URL (s3://...); default: the next free runs/NAME-NNN.")
    ] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="Trials at once.")] = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster to join, or auto.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and an estimate; start nothing.")] = False,
    warm_start: Annotated[
        list[str] | None, typer.Option(help="An earlier run that the sampler learns from; may be given several times.")
    ] = None,
    log_to: Annotated[LogTarget | None, typer.Option(help="Log every trial to this tool too.")] = None,
    keep_checkpoints: Annotated[bool, typer.Option("--keep-checkpoints", help="Keep every trial's weights.")] = False,
    resume: Annotated[str | None, typer.Option(help="Go on with a stopped run, or add trials to it.")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: begin trials that failed anew.")
    ] = False,
) -> None:
    """Search hyperparameters of a medical image captioner, and evaluate the best model once on the test split."""
    set_environment(address)
    install_interrupt_handlers()
    with exit_on_fault():
        if log_to is not None:
            prepare_log(log_to)
        start = _Start(address, log_to)
        if resume is not None:
            _refuse_with_resume(
                space=space is not None, data=data is not None, model=model is not None, seed=seed is not None,
                out=out is not None, dry_run=dry_run, keep_checkpoints=keep_checkpoints, warm_start=bool(warm_start),
            )  # fmt: skip
            wanted = "with --resume give the number to add, such as --trials +20"
            num_more = 0 if trials is None else _parse_trials(trials, "+", wanted)
            from sweep.study.study import Study

            with Study.open(resume, retry_failed=retry_failed, set_values=set_ or []) as study:
                _go_on(study, num_more, max_concurrent, start)
            return
        if retry_failed:
            raise ConfigFault("--retry-failed is for runs there are; name one by --resume DIR.")
        if space is None:
            raise ConfigFault("No space given; name a ready one, such as lora, or a space file, or use --resume DIR.")
        loaded = load_space(find_space(space))
        wanted = "give a whole number of at least 1 (+N is for --resume)"
        count = None if trials is None else _parse_trials(trials, "", wanted)
        pairs = [*(set_ or []), *(["keep_checkpoints=true"] if keep_checkpoints else [])]
        resolved = apply_overrides(
            loaded, data=data, model=model, trials=count, seed=seed, set_values=pairs, max_concurrent=max_concurrent
        )
        if dry_run and address:
            raise ConfigFault("--dry-run measures on this machine; leave --address out.")
        earlier = _collect_earlier(resolved, warm_start or ())
        if not dry_run:
            _begin(resolved, out, earlier, start)
            return
        _check_place(out)
        console, started = Console(), time.monotonic()
        with console.status("Measuring a few steps"):
            _import_libraries()
            from sweep import runner

            plan = runner.describe_run(resolved, started)
        runner.write_lines(console, *(earlier.notes if earlier else ()), plan)


# The heavy imports come late: a fault in a flag or a space file shows at once, Ray reads the environment set above, and
# starts while they go on.


def _import_libraries() -> None:
    with quick_imports():
        import sweep.runner  # noqa: F401
        from medcap_core.runtime.libraries import set_up_libraries

    set_up_libraries()


def _collect_earlier(space: SearchSpace, directories: Sequence[str | Path]) -> "WarmStart | None":
    if not directories:
        return None
    from sweep.study.warm_start import collect_earlier

    return collect_earlier(space, [find_run(str(directory)) for directory in directories])


def run_sweep(
    space: str | Path | Mapping[str, Any],
    *,
    data: str | Path | None = None,
    model: str | Path | None = None,
    trials: int | None = None,
    seed: int | None = None,
    set_values: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    max_concurrent: int | None = None,
    address: str | None = None,
    warm_start: Sequence[str | Path] = (),
) -> "RunResults":
    """Run a sweep as the command does, and return what its run directory holds.

    `space` is a ready one by name, a space file, or the content of one; the others are the command's flags. Call it
    before Ray is imported. Prints as the command. Raises UserFault, and EveryTrialFailed where no trial gave a model.
    """
    set_environment(address)
    read = build_space(space, "space") if isinstance(space, Mapping) else load_space(find_space(str(space)))
    data, model, out = (None if given is None else str(given) for given in (data, model, out))
    values = {key: json.dumps(value, ensure_ascii=False, default=str) for key, value in (set_values or {}).items()}
    pairs = [f"{key}={value}" for key, value in values.items()]
    resolved = apply_overrides(
        read, data=data, model=model, trials=trials, seed=seed, set_values=pairs, max_concurrent=max_concurrent
    )
    earlier = _collect_earlier(resolved, warm_start)
    directory = _begin(resolved, out, earlier, _Start(address, ending=nullcontext))
    from sweep.study.results import load_results

    return load_results(directory)


def _check_place(out: str | None) -> None:
    """Raise RunFault where no run can lie where `out` says, by default in `runs/`."""
    if out is None:
        check_writable(Path("runs").resolve())
    else:
        check_new_place(out)


def _begin(space: SearchSpace, out: str | None, earlier: "WarmStart | None", start: _Start) -> Path:
    """Run the sweep in a new directory, which is returned."""
    _check_place(out)
    from sweep.execution.launch import launch

    with launch(start.address, space.resources, num_trials(space)) as launched, start.ending():
        console = Console()
        with console.status("Checking data and model") as status:

            def show(what: str, done: int, total: int) -> None:
                status.update(f"{what.capitalize()}: {done:,} of {total:,}")

            _import_libraries()
            from sweep import runner
            from sweep.preparation import check_before_start
            from sweep.study.study import Study

            notes = check_before_start(space, progress=show)
        place = out or next_run_directory(Path("runs").resolve(), space.name)
        with Study.create(place, space, earlier) as study:
            try:
                runner.run_study(study, launched, console, log_to=start.log_to, notes=notes)
            except UserFault as fault:
                runner.discard_unused(study, fault)
                raise
    return study.directory


def _go_on(study: "Study", num_more: int, max_concurrent: int | None, start: _Start) -> None:
    if num_more:
        study.check_extension(num_more)  # before anything is started
    study.check_sources()
    wanted = study.space.resources
    if max_concurrent is not None:
        wanted = wanted.model_copy(update={"max_concurrent": max_concurrent})
    from sweep.execution.launch import launch

    with launch(start.address, wanted, study.num_wanted + num_more) as launched, start.ending():
        console = Console()
        with console.status("Loading"):
            _import_libraries()
            from sweep import runner
        runner.run_study(study, launched, console, num_more=num_more, log_to=start.log_to)


def _refuse_with_resume(**flags: bool) -> None:
    given = [name for name, value in flags.items() if value]
    if given:
        named = ", ".join("SPACE" if name == "space" else "--" + name.replace("_", "-") for name in given)
        raise ConfigFault(
            f"--resume goes on with the run's own space.yaml, so {named} cannot be given with it; only "
            "--trials +N, --retry-failed, --set, --address, --max-concurrent and --log-to can."
        )


def _parse_trials(text: str, prefix: str, remedy: str) -> int:
    digits = text.removeprefix(prefix)
    if not text.startswith(prefix) or not digits.isdecimal() or len(text) > _MOST_DIGITS or int(digits) == 0:
        raise ConfigFault(f"--trials {text[:20]}: {remedy}.")
    return int(digits)


if __name__ == "__main__":
    app()
