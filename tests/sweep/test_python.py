"""The interface for Python: a sweep and captions by its model, in a process of their own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from tests.support.real_runs import Materials, ended_afterwards, start_run
from tests.sweep.conftest import FinishedRun

SCRIPT = """
import json, sys
from pathlib import Path
from medcap_core.captioning import caption, load_captioner
from medcap_core.errors import UserFault
from sweep.run import run_sweep

space, images, model, out = sys.argv[1:]
faults = []
for wrong in ({"data": "no/such/data"}, {"data": images, "warm_start": ["no/such/run"]}):
    try:
        run_sweep("lora", model=model, out=out, **wrong)
    except UserFault as fault:
        faults += fault.faults
changes = {"max_test_images": 5, "prompt": ""}
results = run_sweep(space, data=images, model=model, max_concurrent=1, out=out, set_values=changes)
paths = [Path(images, "test", name) for name in results.captions["id"]]
captions = caption(load_captioner(results.paths.best_model), paths)
best = results.best.name
print(json.dumps([faults, str(results.directory), best, captions, list(results.test_rows[best])]))
"""

GRID = """
name: rows
fixed: {batch_size: 8, max_caption_tokens: 16, max_new_tokens: 10, num_beams: 2, num_epochs: 1}
search: {freeze: {grid: [zero_shot, decoder_only]}}
sampler: grid
test: all
resources: {cpus_per_trial: 1}
"""


def test_a_comparison_and_its_captions_beside_another_run_that_is_extended(
    finished_run: FinishedRun, materials: Materials, tmp_path: Path
) -> None:
    directory, rows, space = tmp_path / "extended", tmp_path / "rows", tmp_path / "rows.yaml"
    shutil.copytree(finished_run.directory, directory)
    space.write_text(GRID)
    extending = start_run(materials, "--resume", directory, "--trials", "+1", "--max-concurrent", 1)
    comparing = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, space, materials.images, materials.model, rows],
        env=materials.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with ended_afterwards(extending), ended_afterwards(comparing):
        outputs = [run.communicate() for run in (extending, comparing)]
    assert [(run.returncode, errors) for run, (_, errors) in zip((extending, comparing), outputs, strict=True)] == [
        (0, ""), (0, "")
    ]  # fmt: skip

    before, after = (pd.read_csv(folder / "trials.csv") for folder in (finished_run.directory, directory))
    assert len(after) == 5
    pd.testing.assert_frame_equal(after[:4], before, check_dtype=False)
    assert set(json.loads((directory / "test_metrics.json").read_text())["trials"]) >= set(
        json.loads((finished_run.directory / "test_metrics.json").read_text())["trials"]
    )

    faults, out, best, captions, scores = json.loads(outputs[1][0].splitlines()[-1])
    assert ["no/such/data" in faults[0], "no/such/run" in faults[1], len(faults)] == [True, True, 2]
    assert out == str(rows)
    trials = pd.read_csv(rows / "trials.csv")
    assert trials["config.freeze"].tolist() == ["zero_shot", "decoder_only"]
    assert trials["state"].tolist() == ["SUCCEEDED"] * 2
    metrics = json.loads((rows / "test_metrics.json").read_text())
    assert list(metrics["trials"]) == ["trial_0000", "trial_0001"]
    assert metrics["trials"]["trial_0000"] == metrics["zero_shot"]
    assert metrics["best"] == metrics["trials"][best]
    assert scores[-1] == "CIDEr"
    table = pd.read_csv(rows / "test_predictions.csv", keep_default_na=False)
    assert (len(table), captions) == (5, list(table["prediction"]))
    assert "--trials +" not in outputs[1][0]  # a grid has its rows and no more
