"""The pointing game of a run on synthetic heads: where the maps of answers peak, by kind of question."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medcap_core.attention.maps import BATCH_SIZE, AttentionWay
from medcap_core.attention.pointing import PointingGame
from medcap_core.attention.volume_maps import VolumeExplainer, find_peak
from medcap_core.attention.volume_pointing import (
    PointedAnswer,
    draw_structures,
    find_patches,
    find_structures,
    play_volume_game,
)
from medcap_core.data.records import SplitName
from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from medcap_core.runtime.progress import Progress
from sweep.explain.chosen import ExplainedRun
from sweep.held_out.questions import list_questions

Games = dict[str | None, PointingGame]
"""By kind of question, and of all under None; empty where no answer could be scored."""


def play_on_volumes(
    run: ExplainedRun, name: SplitName, ways: Sequence[AttentionWay], num_scans: int | None, progress: Progress
) -> dict[AttentionWay, Games]:
    """Ask a split's phantoms what has a place in the head, and see where each answer's map peaks, in each way."""
    assert isinstance(run.captioner, MedBlip3dCaptioner)
    split = run.load_split(name, progress)
    records = split.records[:num_scans]
    explainer = VolumeExplainer(run.captioner, run.config)
    pointed: dict[AttentionWay, list[PointedAnswer]] = {way: [] for way in ways}
    for start in range(0, len(records), BATCH_SIZE):
        places = np.arange(start, min(start + BATCH_SIZE, len(records)))
        asked = [
            [question for question in list_questions(record) if find_structures(record, question.kind)]
            for record in records[start : start + BATCH_SIZE]
        ]
        texts = [[question.text for question in own] for own in asked]
        explained = explainer.explain(split.pixels(places), texts, ways)
        for row, (place, own) in enumerate(zip(places.tolist(), asked, strict=True)):
            record = records[place]
            for turn, question in enumerate(own):
                structures = find_structures(record, question.kind)
                mask = draw_structures(record, structures, run.captioner.geometry.size)
                for way in ways:
                    answer = explained[way][row][turn]
                    if answer.words:
                        target = find_patches(mask, answer.query_maps.shape[-1])
                        peak = find_peak(answer.map)
                        pointed[way].append(PointedAnswer(record.id, record.case, question.kind, peak, target))
        progress(f"pointing game on {name} scans", int(places[-1]) + 1, len(records))
    return {way: play_volume_game(answers) for way, answers in pointed.items()}


def list_games(games: Games) -> dict[str, Any]:
    """What `pointing_game.json` says: the figures over all answers, and under `kinds` of each kind of question."""
    if not games:
        return {}
    by_kind = {kind: game.to_dict() for kind, game in games.items() if kind is not None}
    return games[None].to_dict() | {"kinds": by_kind}
