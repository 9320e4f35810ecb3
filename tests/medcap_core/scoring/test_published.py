"""Our CIDEr against that of others, on the captions they have published with it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.cider.cider_scorer import cook_test

from medcap_core.scoring.standard import build_cider_scorer

SOURCE = "github.com/Munteanu-Matei/rocov2-medical-vlm at 47b3028"
SYSTEMS = ("roco_finetuned", "roco_biomed_finetuned", "roco_llava_finetuned", "roco_qwen3vl_zeroshot")


@pytest.mark.parametrize("system", SYSTEMS)
def test_cider_equals_the_published_one(system: str) -> None:
    """Theirs is of captions in lower case, split at white space, without the PTB tokenizer."""
    folder = Path(os.environ.get("MEDCAP_SAMPLE_DATA", "shared")) / "published"
    captions, metrics = folder / f"{system}_a_photo_of.json", folder / f"{system}_metrics.json"
    if not captions.is_file() or not metrics.is_file():
        pytest.skip(f"{captions.name} and {metrics.name} of {SOURCE} are not in {folder}; set MEDCAP_SAMPLE_DATA")
    images = json.loads(captions.read_text(encoding="utf-8"))
    references, predictions = ([" ".join(image[key].lower().split()) for image in images] for key in ("ref", "pred"))
    scorer = build_cider_scorer([[text] for text in references])
    scorer.ctest = [cook_test(text) for text in predictions]
    assert float(np.mean(scorer.compute_cider())) == pytest.approx(json.loads(metrics.read_text())["CIDEr"], abs=5e-5)
