"""Play the pointing game of a run on phantoms, on its test split."""

from pathlib import Path

import numpy as np

from medcap_core.attention.maps import MapSettings, explain_texts
from medcap_core.attention.pointing import play_pointing_game
from medcap_core.data.phantoms import PhantomImage
from medcap_core.runtime.progress import Progress, ignore_progress
from sweep.explain.explained_run import ExplainedRun
from sweep.study.attention import PointingResult


def write_pointing_game(
    run: ExplainedRun,
    folder: Path,
    settings: MapSettings,
    num_images: int | None = None,
    progress: Progress = ignore_progress,
) -> str | None:
    """Score the maps of captions on the test split, or its first `num_images`, and leave `pointing_game.json`.

    Returns the outcome in one line; None where the data is not phantoms, whose findings' places alone are known.
    """
    split = run.load_split("test", progress)
    records = split.records[:num_images]
    if not isinstance(records[0].image, PhantomImage):
        return None
    pixels = split.pixels(np.arange(len(records)))
    what = "pointing game on test images"
    explained = explain_texts(run.captioner, pixels, run.config, settings, progress=progress, what=what)
    game = play_pointing_game(explained, records)
    path = folder / PointingResult.file_name
    if game is None:
        path.unlink(missing_ok=True)
        return "Pointing game: no caption of an image with a finding names one, so there is nothing to score."
    about = {"model": run.model_name, "split": "test", "method": settings.method.value, "layer": settings.layer_name}
    PointingResult(**about, **game.model_dump(exclude={"is_above_chance"})).save(path, exclude_unset=True)
    (low, high), (low_gain, high_gain) = game.interval, game.gain_interval
    return (
        f"Pointing game ({settings.method.value}, layer {settings.layer_name}): {game.share:.3f} [{low:.3f}, "
        f"{high:.3f}] of {game.num_words} finding words in {game.num_images} test images peak in the true box; chance "
        f"{game.area_chance:.3f} by area, {game.shuffled_chance:.3f} by other images' boxes, gain over it "
        f"{game.gain:+.3f} [{low_gain:.3f}, {high_gain:.3f}]"
    )
