"""Show trials on Ray's dashboard: each as a task of its name, and its figures as metrics of Ray, for Prometheus too.

A trial's process is reused for others and Ray fixes the name of an actor at its start, so that neither can bear the
name of a trial.
"""

import asyncio
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.util.metrics import Gauge

MOST_SHOWN = 1000
"""Trials that can run at once."""
METRICS = {
    "epoch": "Finished epochs of the trial.",
    "score": "Score of the last epoch on the validation split, by the metric of the sweep.",
    "training_loss": "Mean training loss of the last epoch.",
    "validation_loss": "Validation loss of the last epoch.",
    "images_per_second": "Training images per second in the last epoch.",
    "peak_memory_bytes": "Peak memory of the trial in bytes.",
}


def start_board() -> Any:
    """Start a process with one call in progress for each running trial; pickled whole, so that it imports little."""

    class Board:
        def __init__(self) -> None:
            self.ends: dict[str, asyncio.Event] = {}

        async def show(self, trial: str) -> None:
            await self.ends.setdefault(trial, asyncio.Event()).wait()

        async def end(self, trial: str) -> None:
            self.ends.setdefault(trial, asyncio.Event()).set()

    board: Any = ray.remote(Board)
    return board.options(num_cpus=0, max_concurrency=MOST_SHOWN).remote()


class NotPickled:
    """Excludes its state from the files that Tune pickles of itself."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Dashboard(NotPickled, Callback):
    """Passes starts, epochs and ends of trials to the dashboard."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.board = start_board()
        self.gauges = {
            name: Gauge(f"medcap_{name}", description, tag_keys=("run", "trial"))
            for name, description in METRICS.items()
        }

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show a trial under its name."""
        name = f"{trial.config['trial']} {trial.config['label']}"
        self.board.show.options(name=name).remote(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Set the gauges to the figures of an epoch."""
        for name, gauge in self.gauges.items():
            if result.get(name) is not None:
                gauge.set(float(result[name]), {"run": self.run, "trial": trial.config["trial"]})

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """End what shows a trial."""
        self.board.end.options(name=f"{trial.config['trial']} ended").remote(trial.trial_id)

    on_trial_error = on_trial_complete

    def close(self) -> None:
        """End the process of the board."""
        ray.kill(self.board)
