import csv
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from medcap_core.scoring import baselines, corpus_statistics, meteor, ptb_tokenizer
from medcap_core.scoring.baselines import choose_caption_prior
from medcap_core.scoring.captions import CaptionScorer
from medcap_core.scoring.java import ScoringFailure
from medcap_core.scoring.meteor import load_meteor
from medcap_core.scoring.options import ScoringOptions, preprocess_captions
from medcap_core.scoring.ptb_tokenizer import tokenize_captions
from medcap_core.scoring.registry import STANDARD, ScoreInput, load_scores
from medcap_core.scoring.standard import count_references

REFERENCES = [
    "Chest radiograph: large nodule (15 mm) in the right upper lobe.",
    "Axial CT shows a small pleural effusion on the left; no pneumothorax.",
    "Normal brain MRI.",
    "Axial CT of the abdomen shows a cyst in the right kidney, 3.5 cm.",
    "Ultrasound of the liver.",
]
PREDICTIONS = [
    "chest radiograph shows a nodule in the right lobe",
    "axial ct shows a large pleural effusion on the left",
    "",
    "axial ct shows a cyst in the left kidney .",
    "ultrasound of the liver",
]


@pytest.fixture(scope="module")
def scorer():
    return CaptionScorer(REFERENCES)


def by_image(groups):
    return {image: [group] if isinstance(group, str) else list(group) for image, group in enumerate(groups)}


@pytest.fixture
def their_meteor(meteor, java_on_path):
    """pycocoevalcap's class talking to the program we started, since each takes seconds to load its paraphrases."""
    theirs = Meteor()
    own_process = theirs.meteor_p
    own_process.kill()
    theirs.meteor_p = load_meteor()._start()
    place = theirs.meteor_cmd.index("meteor-1.5.jar")
    assert theirs.meteor_p.args[-len(theirs.meteor_cmd) + place + 1 :] == theirs.meteor_cmd[place + 1 :]
    yield theirs
    theirs.meteor_p = own_process


def score_by_pycocoevalcap(references, predictions, meteor_scorer):
    """Corpus scores and CIDEr per image by pycocoevalcap's own classes."""
    bleu, _ = Bleu(4).compute_score(references, predictions, verbose=0)
    meteor_score, _ = meteor_scorer.compute_score(references, predictions)
    rouge, _ = Rouge().compute_score(references, predictions)
    cider, per_image = Cider().compute_score(references, predictions)
    return dict(zip(STANDARD, [*bleu, meteor_score, rouge, cider], strict=True)), per_image


@pytest.mark.usefixtures("meteor")
def test_meteor_comes_back_after_its_process_died(monkeypatch, tmp_path):
    died = load_meteor()._start()
    died.kill()
    died.wait()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:+UseG1GC")
    corpus, scores, _ = load_meteor().compute_scores([["left lung"], ["right lung"]], ["left lung", ""])
    assert scores.tolist() == [1.0, 0.0]
    assert 0 < corpus < 1


def test_all_scores_equal_pycocoevalcaps(scorer, their_meteor, capfd):
    first = scorer.score(PREDICTIONS).scores
    second = scorer.score(PREDICTIONS).scores
    assert capfd.readouterr() == ("", "")
    references, predictions = by_image(tokenize_captions(REFERENCES)), by_image(tokenize_captions(PREDICTIONS))
    expected, per_image = score_by_pycocoevalcap(references, predictions, their_meteor)
    assert list(first) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    assert first == second == expected
    np.testing.assert_array_equal(scorer.cider_per_image(PREDICTIONS), per_image)
    assert scorer.cider(PREDICTIONS) == expected["CIDEr"]
    assert expected["CIDEr"] > 1
    assert expected["METEOR"] > 0.1
    names = ("METEOR", "CIDEr", "BLEU-4", "ROUGE-L")
    assert scorer.compute(names, PREDICTIONS) == {name: expected[name] for name in names}


def score_all(statistics):
    sums = statistics.score_sums(statistics.stack().sum(axis=0), np.float64(len(statistics.stack())))
    return {name: float(value) for name, value in sums.items()}


def test_statistics_give_the_corpus_scores_again(scorer, their_meteor):
    """Sums over images of what each adds, against pycocoevalcap's own numbers; for parts of the images as well."""
    predictions = [*PREDICTIONS[:4], REFERENCES[4]]  # one caption is its reference, which METEOR counts as no chunk
    scored = scorer.score(predictions)
    references, candidates = by_image(tokenize_captions(REFERENCES)), by_image(tokenize_captions(predictions))
    expected, _ = score_by_pycocoevalcap(references, candidates, their_meteor)
    assert scored.scores == expected
    assert score_all(scored.statistics) == pytest.approx(expected, rel=1e-12)
    assert scored.scores["METEOR"] != pytest.approx(np.mean(scored.statistics.score_each()["METEOR"]), abs=0.01)

    # The third image not drawn, the first drawn twice; CIDEr keeps its document frequencies, so it is their mean.
    drawn = [0, 0, 1, 3, 4]
    sums = scored.statistics.stack()[drawn].sum(axis=0)
    resampled = scored.statistics.score_sums(sums, np.array(5.0))
    again = [{place: group[image] for place, image in enumerate(drawn)} for group in (references, candidates)]
    expected, _ = score_by_pycocoevalcap(*again, their_meteor)
    del expected["CIDEr"]
    assert {name: float(resampled[name]) for name in expected} == pytest.approx(expected, rel=1e-12)
    assert resampled["CIDEr"] == pytest.approx(scorer.cider_per_image(predictions)[drawn].mean())


@pytest.mark.usefixtures("meteor")
def test_statistics_of_real_captions_give_the_corpus_scores_again(sample_data):
    with (sample_data / "data" / "medpix2" / "test" / "metadata.csv").open(newline="", encoding="utf-8") as file:
        captions = [ptb_tokenizer.fold_white_space(row["caption"]) for row in csv.DictReader(file)][:150]
    real = CaptionScorer(captions)
    scored = real.score([*captions[1:], captions[0]])
    assert score_all(scored.statistics) == pytest.approx(scored.scores, rel=1e-12)
    assert len(scored.statistics.stack()) == 150


def test_bleu_by_hand():
    """Lengths 3 and 1 against 3 and 5: 2 + 1 of 4 words, 1 + 0 of 2 pairs, penalty exp(1 - 8 / 4)."""
    counts = np.array([[2, 1, 0, 0, 3, 2, 1, 0, 3, 3], [1, 0, 0, 0, 1, 0, 0, 0, 1, 5]], float)
    bleu = corpus_statistics.score_bleu(counts.sum(axis=0))
    expected = [3 / 4 * np.exp(-1), np.sqrt(3 / 4 * 1 / 2) * np.exp(-1), 0, 0]
    np.testing.assert_allclose(bleu, expected, rtol=1e-8, atol=1e-4)


def test_several_references_an_image():
    references = [["a large nodule", "big nodule on the right"], "normal brain", ["no cyst", "a kidney", "left kidney"]]
    predictions = ["a large nodule on the right", "brain", "left kidney"]
    scorer = CaptionScorer(references)
    expected, per_image = Cider().compute_score(by_image(references), by_image(predictions))
    assert scorer.cider(predictions) == expected
    np.testing.assert_array_equal(scorer.cider_per_image(predictions), per_image)


def test_a_perfect_prediction_scores_ten_and_an_empty_one_nothing(scorer):
    perfect = scorer.cider_per_image(REFERENCES)
    # "Normal brain MRI." has no 4-grams, so one of four orders counts nothing.
    np.testing.assert_allclose(perfect, [10, 10, 7.5, 10, 10], rtol=1e-12)
    assert scorer.cider([""] * 5) == 0
    assert scorer.cider(["?!"] * 5) == 0


def test_cider_by_hand():
    scorer = CaptionScorer(["a b", "a c", "d"])
    # idf: a = log 3/2, b = log 3; one shared word, lengths in bigrams 0 and 1, so a penalty of exp(-1 / 72).
    idf_a, idf_b = np.log(3 / 2), np.log(3)
    expected = 10 / 4 * idf_a / np.hypot(idf_a, idf_b) * np.exp(-1 / 72)
    np.testing.assert_allclose(scorer.cider_per_image(["a", "x", ""]), [expected, 0, 0], rtol=1e-12)


def test_cider_is_no_mean_over_parts(scorer):
    whole = scorer.cider(PREDICTIONS)
    parts = [CaptionScorer(REFERENCES[part]).cider(PREDICTIONS[part]) for part in (slice(0, 2), slice(2, 5))]
    assert abs(whole - (2 * parts[0] + 3 * parts[1]) / 5) > 0.01


def test_earlier_predictions_leave_no_trace(scorer):
    before = scorer.cider(PREDICTIONS)
    counted = count_references(tuple((text,) for text in REFERENCES)).cider.document_frequency
    num_known = len(counted)
    scorer.cider(["never seen words", "b", "c", "d", "e"])
    assert len(counted) == num_known
    assert scorer.cider(PREDICTIONS) == before


@pytest.mark.usefixtures("meteor")
def test_degenerate_corpora_score_nothing(scorer):
    assert CaptionScorer(["a single image"]).cider(["a single image"]) == 0
    assert CaptionScorer(["...", "?"]).cider(["a", "b"]) == 0
    scores = scorer.score([""] * 5).scores
    assert all(abs(value) < 1e-6 for value in scores.values())
    assert all(np.isfinite(value) for value in scores.values())


def test_a_meteor_that_dies_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(meteor, "_JAR", tmp_path / "missing.jar")
    with closing(meteor.MeteorScorer()) as broken, pytest.raises(ScoringFailure, match="METEOR stopped answering"):
        broken.compute_scores([["left lung"]], ["left lung"])
    assert broken._process is None


def test_meteor_can_be_interrupted_by_another_thread():
    with closing(meteor.MeteorScorer()) as scorer, ThreadPoolExecutor(1) as beside:
        call = beside.submit(scorer.compute_scores, [["left lung"]] * 5000, ["left lung"] * 5000)
        while scorer._process is None:
            time.sleep(0.01)
        scorer.interrupt()
        with pytest.raises(ScoringFailure, match="METEOR stopped answering"):
            call.result(timeout=60)


@pytest.mark.usefixtures("meteor")
def test_a_separator_in_a_reference_is_no_second_reference():
    pairs = [(["left ||| lung"], "lung"), (["left lung"], "lung")]
    _, scores, _ = load_meteor().compute_scores([texts for texts, _ in pairs], [text for _, text in pairs])
    assert scores[0] == scores[1] > 0


def test_meteor_ends_when_it_is_let_go():
    scorer = meteor.MeteorScorer()
    process = scorer._start()
    scorer.close()
    assert process.poll() is not None
    process = scorer._start()
    del scorer
    gc.collect()
    assert process.poll() is not None


def test_wrong_counts_are_refused(scorer):
    with pytest.raises(ValueError, match="4 predictions for 5 images"):
        scorer.cider(PREDICTIONS[:4])
    with pytest.raises(ValueError, match="image 1 has no reference"):
        CaptionScorer(["a", [], "b"])
    with pytest.raises(ValueError, match="no images"):
        CaptionScorer([])


@pytest.mark.usefixtures("no_tokenizer_runs")
def test_equal_references_are_counted_once():
    count_references.cache_clear()
    for references in (["a b", "c"], [["a b"], ("c",)], ["a b", "d"]):
        CaptionScorer(references).cider(["a", "c"])
    assert (count_references.cache_info().misses, count_references.cache_info().hits) == (2, 1)


@pytest.mark.usefixtures("meteor")
def test_the_scores_of_every_run_are_plug_ins_as_others_are(scorer):
    captions = ScoreInput(PREDICTIONS, [[text] for text in REFERENCES], PREDICTIONS, [[text] for text in REFERENCES])
    values = {name: load_scores(name)[0].compute(captions).value for name in STANDARD}
    assert values == scorer.score(PREDICTIONS).scores


# Options


def test_imageclef_preprocessing_follows_the_script():
    """Digits first, so that the point between two numbers leaves them together; nothing gets a space."""
    captions = ["3.5 cm, T2-weighted (Fig. 12B)!", "\u00c4 µm\u2026 ½", ""]
    assert preprocess_captions(captions, "imageclef2025") == [
        "numbernumber cm tnumberweighted fig numberb",
        "\u00e4 µm\u2026 ½",  # ASCII punctuation only, and a fraction is no digit
        "",
    ]
    assert preprocess_captions(captions, "none") == captions


@pytest.mark.usefixtures("meteor")
def test_preprocessing_reaches_every_score():
    options = ScoringOptions(extra_scores=("rouge1",), preprocessing="imageclef2025")
    ours = CaptionScorer(["Nodule of 15 mm.", "Lung, left"], options)
    scored = ours.score(["nodule, of: 7 MM", "(left) lung"])
    assert list(scored.scores) == [*STANDARD, "ROUGE-1"]
    assert scored.statistics.values["CIDEr"].each[0] == pytest.approx(10)
    assert scored.scores["BLEU-1"] == pytest.approx(1, abs=1e-6)
    assert scored.scores["ROUGE-1"] == 1


# Caption prior

WORDS = ["axial", "ct", "of", "the", "chest", "shows", "small", "nodule", "left", "right", "lobe", "no", "effusion"]


def draw_captions(count, seed):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=generator.integers(3, 12))) for _ in range(count)]


def test_prior_index_agrees_with_pycocoevalcap():
    references = draw_captions(23, seed=5)
    index = baselines._CiderIndex(references)
    for text in [*references[:7], "ct of an unseen organ", "a a a a", ""]:
        expected, _ = Cider().compute_score(by_image(references), by_image([text] * 23))
        assert index.compute_mean_cider(text) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_prior_is_the_best_candidate():
    captions = draw_captions(64, seed=2)
    candidates = [caption for place, caption in enumerate(captions) if place // 4 % 2 == 0]
    judges = [caption for place, caption in enumerate(captions) if place // 4 % 2 == 1]
    scores = {text: Cider().compute_score(by_image(judges), by_image([text] * 32))[0] for text in candidates}
    assert choose_caption_prior(captions, seed=0) == max(scores, key=scores.get)


def test_prior_depends_on_the_seed_only_through_the_sample():
    captions = draw_captions(300, seed=3)
    chosen = [choose_caption_prior(captions, seed=seed, num_candidates=5, num_judges=40) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert set(chosen) <= set(captions)


def test_a_repeated_caption_of_one_case_does_not_vote_for_itself():
    repeated = "rare vein of galen malformation"
    # The nine lie within the first of sixteen blocks of ten.
    captions = [repeated] * 9 + [f"finding of type {place % 50} is seen" for place in range(151)]
    plain = baselines._CiderIndex(captions)
    assert max(captions, key=plain.compute_mean_cider) == repeated
    assert choose_caption_prior(captions, seed=0) != repeated


def test_prior_of_few_captions():
    assert choose_caption_prior(["  only\none "], seed=0) == "only one"
    assert choose_caption_prior(["a b", "a b"], seed=0) == "a b"
    assert choose_caption_prior(["...", "?"], seed=0) in {"...", "?"}
    with pytest.raises(ValueError, match="no training captions"):
        choose_caption_prior([], seed=0)
