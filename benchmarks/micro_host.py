"""What surrounds the model: scores, the change from one trial to the next, and the start of the data."""

import itertools
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.cider.cider_scorer import cook_test
from pycocoevalcap.meteor.meteor import Meteor

from benchmarks import peer_trainer
from benchmarks.growth import prepare_folder
from benchmarks.lists import build_tiny_space
from benchmarks.machine import print_table, run_apart, time_call
from benchmarks.sweep_run import compute_turnarounds, run_sweep
from benchmarks.synthetic import write_phantom_folder
from medcap_core.config import TrialConfig
from medcap_core.data.phantoms import load_phantoms
from medcap_core.data.sources.tables import read_image_folder
from medcap_core.data.stores.images import count_usable_cpus
from medcap_core.models import load_geometry
from medcap_core.scoring.meteor import MeteorScorer
from medcap_core.scoring.ptb_tokenizer import tokenize_captions
from medcap_core.scoring.standard import build_cider_scorer


def measure_metrics(num_captions: int) -> None:
    """Print what one epoch's scores take beside pycocoevalcap's own classes and beside what cannot be saved."""
    captions = [record.caption for record in load_phantoms(sizes={"train": num_captions}).splits["train"]]
    predictions = list(itertools.islice(itertools.cycle(captions), 1, num_captions + 1))
    peer_trainer.provide_java()
    tokens, references = tokenize_captions(predictions), tokenize_captions(captions)
    by_image = [{image: [text] for image, text in enumerate(texts)} for texts in (references, tokens)]
    per_image = [[text] for text in references]
    scorer = build_cider_scorer(per_image)

    def compute_cider() -> None:
        scorer.ctest = [cook_test(text) for text in tokens]
        scorer.compute_cider()

    with closing(MeteorScorer()) as meteor:
        rows = [
            ("PTB tokenizer", time_call(lambda: tokenize_captions(predictions)),
             time_call(lambda: peer_trainer.tokenize(predictions)),
             "one caption", time_call(lambda: tokenize_captions(predictions[:1]))),
            ("CIDEr", time_call(compute_cider), time_call(lambda: Cider().compute_score(*by_image)),
             "counting the predictions' n-grams", time_call(lambda: [cook_test(text) for text in tokens])),
            ("METEOR; pycocoevalcap's with its start", time_call(lambda: meteor.compute_scores(per_image, tokens)),
             time_call(lambda: Meteor().compute_score(*by_image), repeats=1), None, None),
        ]  # fmt: skip
    print(f"{num_captions} captions.\n")
    print_table(("score", "s", "pycocoevalcap s", "floor", "floor s"), rows)


def measure_turnaround(num_trials: int = 6) -> None:
    """Print the seconds between tiny trials of a real run, one at a time, in a process that is used again."""
    with tempfile.TemporaryDirectory(prefix="medcap-turnaround-") as name:
        data = write_phantom_folder(Path(name) / "data", 32, 8)
        run = run_sweep(build_tiny_space(data, num_trials, max_concurrent=1), Path(name) / "sweep")
    waits = sorted(compute_turnarounds(run))
    print_table(
        ("start to first step s", "turnaround s: least", "median", "most", "trials"),
        [(run.first_step - run.started, waits[0], waits[len(waits) // 2], waits[-1], num_trials)],
    )


def measure_start(num_images: int) -> None:
    """Print the time to have the images of a PNG folder ready, with an empty cache and a filled one."""
    with tempfile.TemporaryDirectory(prefix="medcap-start-") as name:
        data = write_phantom_folder(Path(name) / "data", num_images, 2)
        geometry, records = load_geometry(TrialConfig()), read_image_folder(data).splits["train"]
        measured = [run_apart(prepare_folder, data, Path(name) / "cache", geometry.size) for _ in range(2)]
        cold, warm = (reading + filling for reading, filling, _ in measured)
        started = time.perf_counter()
        with ThreadPoolExecutor(count_usable_cpus()) as pool:
            list(pool.map(lambda record: geometry.decode(record.image), records))
        decoding = time.perf_counter() - started
        looking = time_call(lambda: [record.image.fingerprint() for record in records])
    print(f"{num_images} PNG files of 128 px, {count_usable_cpus()} cores.\n")
    print_table(
        ("cache", "s", "floor", "floor s"),
        [("empty", cold, "decoding alone", decoding), ("filled", warm, "looking at each file alone", looking)],
    )
