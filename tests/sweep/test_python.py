"""The interface for Python: a sweep and captions by its model, in a process of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from tests.support.real_runs import Materials
from tests.sweep.conftest import FinishedRun

SCRIPT = """
import json, sys
from pathlib import Path
from medcap_core.captioning import caption, load_captioner
from medcap_core.errors import DataFault
from sweep.run import run_sweep

space, images, model, out, earlier = sys.argv[1:]
try:
    run_sweep(space, data="no/such/data", model=model, out=out)
except DataFault as fault:
    faults = fault.faults
changes = {"max_test_images": 5, "prompt": ""}
results = run_sweep(
    space, data=images, model=model, trials=1, max_concurrent=1, out=out, set_values=changes, warm_start=[earlier]
)
num_earlier = len(json.loads(results.paths.warm_start.read_text())["trials"])
paths = [Path(images, "test", name) for name in results.captions["id"]]
captions = caption(load_captioner(results.paths.best_model), paths)
epochs = [epoch.score for epoch in results.best.epochs]
print(json.dumps([faults, str(results.directory), epochs, captions, list(results.test_rows["best"]), num_earlier]))
"""


def test_a_sweep_and_its_captions(materials: Materials, finished_run: FinishedRun, tmp_path: Path) -> None:
    arguments = (materials.space, materials.images, materials.model, tmp_path / "run", finished_run.directory)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=materials.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    faults, directory, epochs, captions, scores, num_earlier = json.loads(done.stdout.splitlines()[-1])
    assert len(faults) == 1
    assert "no/such/data" in faults[0]
    assert directory == str(tmp_path / "run")
    record = json.loads((finished_run.directory / "trials" / "trial_0000" / "trial.json").read_text())
    assert epochs == [epoch["score"] for epoch in record["epochs"]]
    table = pd.read_csv(tmp_path / "run" / "test_predictions.csv", keep_default_na=False)
    assert (len(table), captions) == (5, list(table["prediction"]))
    assert scores[-1] == "CIDEr"
    assert num_earlier == 4
