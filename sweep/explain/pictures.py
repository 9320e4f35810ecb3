"""Draw where a run's model looks as it writes, one picture a text; on phantoms, play the pointing game too."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcap_core.attention.explained import ExplainedText
from medcap_core.attention.maps import MapSettings, explain_texts
from medcap_core.attention.pointing import play_pointing_game
from medcap_core.data.phantoms import PhantomImage
from medcap_core.errors import RunFault
from medcap_core.runtime.cache import replacing
from medcap_core.runtime.progress import Progress, ignore_progress
from sweep.explain.sheet import save_sheet
from sweep.explain.task import ExplainedRun, Task
from sweep.study.attention import AttentionIndex, PictureEntry, PointingResult

MAPS_NAME = "attention.npz"


def write_attention_pictures(
    task: Task, folder: Path, *, names: list[str], num: int = 8, progress: Progress = ignore_progress
) -> list[PictureEntry]:
    """Explain the records `names` (paths, or ids of the test split), or `num` chosen ones, and draw each text.

    Pictures of an earlier call in the folder are replaced. Beside them lie `attention.json` (texts, words, peaks) and
    `attention.npz`: `maps_000` (words, *grid) and, with a bridge, `queries_000` (words, Q) and `query_maps_000`
    (Q, *grid). Raises UserFault.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFault(f"--out {folder}: cannot be made ({error.strerror}); choose another folder.") from None
    items = task.read(names, progress) if names else task.choose(num, progress)
    explained = explain_texts(
        task.run.captioner,
        np.stack([item.pixels for item in items]),
        task.run.config,
        task.settings,
        [item.question for item in items],
        progress,
        f"explaining {task.noun}",
    )
    earlier = _list_earlier(folder)
    entries: list[PictureEntry] = []
    maps: dict[str, NDArray[np.float32]] = {}
    for index, (item, text) in enumerate(zip(items, explained, strict=True)):
        parts = [item.kind, item.record.id] + ([item.question_kind or "question"] if item.question else [])
        slugs = [re.sub(r"[^A-Za-z0-9._-]+", "-", part)[-60:].strip("-.") or "image" for part in parts]
        file = "-".join([f"{index + 1:02d}", *slugs]) + ".png"
        entry = task.describe(item, text, file, f"maps_{index:03d}")
        save_sheet(task.lay_out(item, text), folder / entry.file)
        maps |= _collect_maps(index, text)
        entries.append(entry)
        progress("drawing pictures", index + 1, len(items))
    with replacing(folder / MAPS_NAME) as archive:
        np.savez_compressed(archive, allow_pickle=False, **maps)
    AttentionIndex(
        model=task.run.model_name,
        data=task.run.config.data,
        method=task.settings.method.value,
        layer=task.settings.layer_name,
        num_layers=explained[0].num_layers,
        images=entries,
    ).save(folder / AttentionIndex.file_name, exclude_unset=True)
    for path in earlier - {folder / entry.file for entry in entries}:
        path.unlink(missing_ok=True)
    return entries


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


def _collect_maps(index: int, explained: ExplainedText) -> dict[str, NDArray[np.float32]]:
    def stack(arrays: list[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
        return np.array(arrays, dtype=np.float32).reshape(-1, *shape)

    maps = {f"maps_{index:03d}": stack([word.map for word in explained.words], explained.grid)}
    if explained.query_maps is not None:
        shares = stack([word.queries for word in explained.words], explained.query_maps.shape[:1])
        maps |= {f"queries_{index:03d}": shares, f"query_maps_{index:03d}": explained.query_maps}
    return maps


def _list_earlier(folder: Path) -> set[Path]:
    """List pictures that are to be replaced; a damaged index names none."""
    try:
        index = AttentionIndex.load(folder / AttentionIndex.file_name)
    except RunFault:
        return set()
    return set() if index is None else {folder / entry.file for entry in index.images}
