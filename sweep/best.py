"""The best config of a run as YAML, and its model with a model card.

python -m sweep.best RUN_DIR
python -m sweep.best RUN_DIR --export DIR
python -m sweep.best RUN_DIR --json
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from medcap_core.config import FreezeMode
from medcap_core.errors import RunFault
from medcap_core.runtime.command_line import exit_on_fault
from medcap_core.runtime.storage import is_url
from medcap_core.training.stored_checkpoints import StoredCheckpoints
from sweep.process.environment import set_environment
from sweep.space import best_space, dump_space
from sweep.study.directory import load_run_space, show_run
from sweep.study.mirror import find_run
from sweep.study.record import TrialRecord
from sweep.study.results import RunResults, load_results

_TRIAL_NAME = re.compile(r"trial_\d{4,}")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def read_best(directory: Path, trial: str | None = None) -> str:
    """Read the config of the run's best trial, or of the one named, as a space file with nothing left to search.

    Raises RunFault where there is no such run or trial, or where the run has not chosen a best one yet.
    """
    results = load_results(directory)
    if trial is not None:
        name = f"{results.space.name}-{trial.replace('_', '-')}"
        text = dump_space(best_space(results.space, _find_trial(results, trial).config, name))
        return f"# {trial} of {results.directory.name}.\n{text}"
    if not results.paths.best_config.is_file():
        raise _no_best_yet(directory)
    load_run_space(results.paths.best_config)  # a damaged file is named, not printed
    return results.paths.best_config.read_text(encoding="utf-8")


def format_best_json(directory: Path, trial: str | None = None) -> str:
    """Format the run's best trial, or the one named, as JSON: config, scores on validation and on the test split.

    Raises RunFault as `read_best`.
    """
    results = load_results(directory)
    record = results.best if trial is None else _find_trial(results, trial)
    if record is None or (trial is None and not results.paths.best_config.is_file()):
        raise _no_best_yet(directory)
    is_best = record.name == results.metrics.best_trial
    values = {
        "trial": record.name,
        "state": record.state.value,
        "objective": record.config.objective.dump(),
        "best_score": record.best_score,
        "best_epoch": record.best_epoch,
        "whole_validation_score": record.whole_validation_score,
        "test": results.metrics.scores_of("best" if is_best else record.name),
        "model": str(results.paths.best_model) if record.name == _exported_trial(results) else None,
        "config": record.config.model_dump(mode="json"),
    }
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def export(directory: Path, target: Path, trial: str | None = None) -> Path:
    """Copy the best model, or the model of the trial named, into `target` with a model card; returns `target`.

    `target` is new or empty, and is complete or not there. Raises RunFault where that is not so, where there is no such
    run or trial, or where its weights are gone.
    """
    from medcap_core.captioning import read_settings
    from medcap_core.training.export import TRIAL_CONFIG_FILE, export_captioner
    from sweep.report.model_card import format_model_card, hide_folders, read_architecture

    results = load_results(directory)
    exported = _exported_trial(results)
    name = trial or exported
    if name is None:
        raise _no_best_yet(directory)
    record = _find_trial(results, name)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise RunFault(f"--export {target} is there already and not an empty folder; choose another.")
    if name == exported:
        if not (results.paths.best_model / TRIAL_CONFIG_FILE).is_file():
            raise RunFault(f"{results.paths.best_model} has no {TRIAL_CONFIG_FILE}; restore it from a copy.")
        read_settings(str(results.paths.best_model))
        read_architecture(results.paths.best_model)
    partial = target.resolve().with_name(f".{target.resolve().name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        if name == exported:
            ignore = shutil.ignore_patterns(results.paths.best_model_trial.name)
            shutil.copytree(results.paths.best_model, partial, ignore=ignore)
        else:
            weights = results.paths.trial(name).best_weights
            if not weights.is_file() and record.config.freeze is not FreezeMode.ZERO_SHOT:
                raise RunFault(
                    f"{name} keeps no weights (it is {record.state.value}; only the best three trials keep theirs); "
                    "export one of them, or run again with --keep-checkpoints."
                )
            export_captioner(record.config, weights, partial)
        config_path = partial / TRIAL_CONFIG_FILE
        values = json.loads(config_path.read_text(encoding="utf-8"))
        # Data and base models go without the folders they lie in here: an exported model is there to be shared.
        config_path.write_text(json.dumps(values | hide_folders(values), indent=1) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(format_model_card(results, record, partial), encoding="utf-8")
        partial.replace(target.resolve())
    except shutil.Error as error:
        source, _, why = error.args[0][0]
        raise RunFault(f"{source} cannot be copied ({why}); mend or replace it.") from None
    except OSError as error:
        raise RunFault(f"--export {target}: cannot be written ({error.strerror or error}); choose another.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _exported_trial(results: RunResults) -> str | None:
    """Read which trial's model lies in `best/`. Raises RunFault where the file names none."""
    path = results.paths.best_model_trial
    if not path.is_file():
        return None
    name = path.read_text(encoding="utf-8", errors="replace").strip()
    if not _TRIAL_NAME.fullmatch(name):
        raise RunFault(f"{path} names no trial: write the name of the one whose model lies beside it.")
    return name


def _find_trial(results: RunResults, name: str) -> TrialRecord:
    names = [record.name for record in results.records]
    if name not in names:
        known = " to ".join(dict.fromkeys([*names[:1], *names[-1:]])) or "none yet"
        raise RunFault(f"{show_run(results.directory)} has no trial {name}; it has {known}.")
    return results.records[names.index(name)]


def _no_best_yet(directory: Path) -> RunFault:
    run = show_run(directory)
    return RunFault(
        f"{run} has no best model yet; it is chosen when the search is over: wait for it, or go on with a stopped run "
        f"by python -m sweep.run --resume {run}."
    )


@app.command()
def best(
    run: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run directory, such as runs/lora-001, or its URL.")],
    export_to: Annotated[Path | None, typer.Option("--export", metavar="DIR", help="Copy the model there.")] = None,
    trial: Annotated[str | None, typer.Option(help="This trial in place of the best, such as trial_0003.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, scores included.")] = False,
) -> None:
    """Print the best config of a run as YAML, or export its model with a model card."""
    set_environment(None)
    with exit_on_fault():
        if as_json and export_to is not None:
            raise RunFault("--json prints the best trial and --export copies its model; give one of them.")
        directory = find_run(run)
        if as_json:
            sys.stdout.write(format_best_json(directory, trial))
        elif export_to is None:
            sys.stdout.write(read_best(directory, trial))
        else:
            from medcap_core.runtime.libraries import set_up_libraries

            set_up_libraries()
            if trial is not None and is_url(run):
                StoredCheckpoints(run, trial).fetch()
            sys.stdout.write(f"Model  {export(directory, export_to, trial)} (README.md is its model card)\n")


if __name__ == "__main__":
    app()
