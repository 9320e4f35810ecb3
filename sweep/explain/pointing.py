"""The pointing game of a run on phantoms: scored on its test split; its methods compared on validation."""

from pathlib import Path
from typing import Any

import numpy as np

from medcap_core.attention.maps import DEFAULT_WAY, AttentionMethod, AttentionWay, count_layers, explain_captions
from medcap_core.attention.pointing import PointingGame, play_pointing_game
from medcap_core.attention.volume_maps import count_language_layers
from medcap_core.data.brain_phantoms import BrainPhantom
from medcap_core.data.phantoms import PhantomImage
from medcap_core.data.records import SplitName
from medcap_core.errors import RunFault
from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from medcap_core.runtime.files import write_json_atomically
from medcap_core.runtime.progress import Progress, ignore_progress
from sweep.explain.chosen import ExplainedRun, load_explained_run, make_output_folder
from sweep.explain.volume_pointing import list_games, play_on_volumes

GAME_NAME, COMPARISON_NAME = "pointing_game.json", "pointing_comparison.json"


def write_pointing_game(
    run_directory: Path,
    *,
    way: AttentionWay = DEFAULT_WAY,
    num_images: int | None = None,
    out: Path | None = None,
    model: str | None = None,
    progress: Progress = ignore_progress,
) -> str | None:
    """Score the maps on the run's test split, or its first `num_images`, and leave `pointing_game.json`.

    Returns the outcome in one line, of volumes one more for each kind of question; None where the data is not phantoms,
    whose findings' places alone are known.
    """
    run = load_explained_run(run_directory, model)
    split = run.load_split("test", progress)
    if not isinstance(split.records[0].image, PhantomImage | BrainPhantom):
        return None
    if isinstance(run.captioner, MedBlip3dCaptioner):
        return _write_volume_game(run, make_output_folder(run_directory, out), way, num_images, progress)
    folder = make_output_folder(run_directory, out)
    game = _play(run, "test", [way], num_images, progress)[way]
    about = _describe(run, "test", way)
    write_json_atomically(folder / GAME_NAME, about | ({} if game is None else game.to_dict()))
    if game is None:
        return "Pointing game: no caption of an image with a finding names one, so there is nothing to score."
    return (
        f"Pointing game ({way.method.value}, layer {way.layer_name}): {game.share:.3f} {_bracket(game.interval)} of "
        f"{game.num_words} finding words in {game.num_images} test images peak in the true box; chance "
        f"{game.area_chance:.3f} by area, {game.shuffled_chance:.3f} by other images' boxes, gain over it "
        f"{game.gain:+.3f} {_bracket(game.gain_interval)}"
    )


def _write_volume_game(
    run: ExplainedRun, folder: Path, way: AttentionWay, num_scans: int | None, progress: Progress
) -> str:
    games = play_on_volumes(run, "test", [way], num_scans, progress)[way]
    write_json_atomically(folder / GAME_NAME, _describe(run, "test", way) | list_games(games))
    if not games:
        return "Pointing game: no answer is about a place in the head, so there is nothing to score."
    lines = [
        f"{'all' if kind is None else kind}: {game.share:.3f} {_bracket(game.interval)} of {game.num_words} answers on "
        f"{game.num_images} test scans peak in the true structure; chance {game.area_chance:.3f} by patches, "
        f"{game.shuffled_chance:.3f} by other subjects' structures, gain over it {game.gain:+.3f} "
        f"{_bracket(game.gain_interval)}"
        for kind, game in games.items()
    ]
    return "\n".join(f"Pointing game ({way.method.value}, layer {way.layer_name}), {line}" for line in lines)


def compare_ways(
    run_directory: Path,
    *,
    model: str | None = None,
    out: Path | None = None,
    progress: Progress = ignore_progress,
) -> dict[AttentionWay, PointingGame | None]:
    """Play the game with each method and layer on validation, where choices belong; leaves `pointing_comparison.json`.

    Raises RunFault where the run's data is not phantoms.
    """
    run = load_explained_run(run_directory, model)
    split = run.load_split("validation", progress)
    if not isinstance(split.records[0].image, PhantomImage | BrainPhantom):
        raise RunFault(f"{run_directory}: --compare needs phantoms, whose findings' places are known; leave it out.")
    folder = make_output_folder(run_directory, out)
    if isinstance(run.captioner, MedBlip3dCaptioner):
        num_layers = count_language_layers(run.captioner)
    else:
        num_layers = count_layers(run.captioner, split.pixels([0]), run.config)
    ways = [AttentionWay(method, layer) for method in AttentionMethod for layer in (*range(1, num_layers + 1), None)]
    games: dict[AttentionWay, PointingGame | None]
    if isinstance(run.captioner, MedBlip3dCaptioner):
        played = play_on_volumes(run, "validation", ways, None, progress)
        games = {way: of_kinds.get(None) for way, of_kinds in played.items()}
    else:
        games = _play(run, "validation", ways, None, progress)
    rows = [_describe(run, "validation", way) | ({} if game is None else game.to_dict()) for way, game in games.items()]
    write_json_atomically(folder / COMPARISON_NAME, rows)
    return games


def describe_comparison(games: dict[AttentionWay, PointingGame | None]) -> str:
    """A line for each method and layer."""
    lines = ["method           layer  share  95% interval    area   others  gain    95% interval"]
    for way, game in games.items():
        if game is None:
            lines.append(f"{way.method.value:<16} {way.layer_name:<5}  nothing to score")
            continue
        lines.append(
            f"{way.method.value:<16} {way.layer_name:<5}  {game.share:.3f}  {_bracket(game.interval)}  "
            f"{game.area_chance:.3f}  {game.shuffled_chance:.3f}   {game.gain:+.3f}  "
            f"[{game.gain_interval[0]:+.3f}, {game.gain_interval[1]:+.3f}]" + ("  above chance" * game.is_above_chance)
        )
    return "\n".join(lines)


def _play(
    run: ExplainedRun, name: SplitName, ways: list[AttentionWay], num_images: int | None, progress: Progress
) -> dict[AttentionWay, PointingGame | None]:
    split = run.load_split(name)
    records = split.records[:num_images]
    what = f"pointing game on {name} images"
    explained = explain_captions(
        run.captioner,
        split.pixels(np.arange(len(records))),
        run.config,
        ways,
        lambda done, total: progress(what, done, total),
    )
    return {way: play_pointing_game(captions, records) for way, captions in explained.items()}


def _describe(run: ExplainedRun, split: SplitName, way: AttentionWay) -> dict[str, Any]:
    return {"model": run.model_name, "split": split, "method": way.method.value, "layer": way.layer_name}


def _bracket(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"
