"""Extra scores: ROUGE-1, BERTScore, and how packages add their own."""

import dataclasses
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from medcap_core.errors import ConfigFault, ModelFault
from medcap_core.objective import find_ranked_score, read_objective
from medcap_core.scoring.captions import CaptionScorer
from medcap_core.scoring.extra.bertscore import BertScorer, _find_layer
from medcap_core.scoring.extra.radiology import build_score, keep_sentence, pair_best, score_labels
from medcap_core.scoring.extra.rouge import compute_rouge_n
from medcap_core.scoring.options import ScoringOptions
from medcap_core.scoring.registry import ScoreInput, check_scores, compute_scores, list_scores, load_scores

WORDS = ["axial", "ct", "of", "the", "chest", "shows", "small", "nodule", "left", "right", "lobe", "no", "effusion"]


def test_rouge1_by_hand():
    assert compute_rouge_n("a a b", ["a b b b"], 1) == 2 * 2 / 7  # one a and one b are shared
    assert compute_rouge_n("T2-weighted.", ["t2 WEIGHTED image"], 1) == 2 * 2 / 5
    assert compute_rouge_n("x y", ["x", "x y z"], 1) == 2 * 2 / 5  # the best of several
    assert compute_rouge_n("...", ["?"], 1) == compute_rouge_n("", ["a"], 1) == 0


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """A BERT of random weights in Hub format, which knows a few words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=16)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def embed(tiny_bert):
    """The last layer's unit vectors of one text at a time, without padding."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(tiny_bert).eval(), AutoTokenizer.from_pretrained(tiny_bert)

    @torch.no_grad()
    def compute(text):
        return torch.nn.functional.normalize(model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0], dim=-1)

    return compute


def test_bertscore_by_its_definition(tiny_bert, embed):
    """Greedy matching, written out for one pair at a time."""
    pairs = [("axial ct of the chest", "ct shows small nodule"), ("left lobe", "left lobe"), ("no", "small effusion")]
    scorer = BertScorer(str(tiny_bert))
    found = scorer.score([first for first, _ in pairs], [[second] for _, second in pairs])
    for (first, second), score in zip(pairs, found, strict=True):
        similarity = embed(first) @ embed(second).T  # the ends are [CLS] and [SEP]
        precision, recall = similarity[1:-1].amax(1).mean(), similarity[:, 1:-1].amax(0).mean()
        assert score == pytest.approx(float(2 * precision * recall / (precision + recall)), abs=1e-5)
    assert found[1] == pytest.approx(1, abs=1e-5)
    assert scorer.layer == 3
    assert scorer.score(["", "left"], [["left"], ["right", "left"]]) == [0.0, pytest.approx(1, abs=1e-5)]
    assert len(scorer.score(["left " * 99], [["right " * 40]])) == 1  # cut at what the encoder takes


def test_bertscore_weighs_rare_tokens_by_idf(tiny_bert, embed):
    """The weights of the bert-score package: document frequencies over all references, tokens of none included."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    prediction = "axial ct of the left lobe"
    references = [["ct shows small nodule left", "left lobe"], ["ct of the chest chest"], ["no effusion"]]
    flat = [set(tokenizer(text)["input_ids"]) for group in references for text in group]

    def weigh(text):
        counts = [sum(token in ids for ids in flat) for token in tokenizer(text)["input_ids"]]
        return torch.tensor([math.log((len(flat) + 1) / (count + 1)) for count in counts])

    expected = []
    for reference in references[0]:
        similarity = embed(prediction) @ embed(reference).T
        precision = (similarity.amax(1) * weigh(prediction)).sum() / weigh(prediction).sum()
        recall = (similarity.amax(0) * weigh(reference)).sum() / weigh(reference).sum()
        expected.append(float(2 * precision * recall / (precision + recall)))
    scorer = BertScorer(str(tiny_bert))
    found = scorer.score([prediction, "ct", ""], references, idf=True)
    assert found[0] == pytest.approx(max(expected), abs=1e-5)
    assert found[0] != pytest.approx(scorer.score([prediction], references[:1])[0], abs=1e-4)
    assert found[2] == 0.0
    assert scorer.score(["left", "left"], [["left"], ["left"]], idf=True) == [0.0, 0.0]  # no token has any weight


def test_the_layer_goes_by_the_size_of_the_encoder():
    sizes = [
        ("bert", 12, 768, 30522, 9), ("bert", 12, 768, 31090, 8), ("roberta", 24, 1024, 50265, 17),
        ("distilbert", 6, 768, 30522, 5), ("deberta", 48, 1024, 50265, 40), ("deberta", 48, 32, 14, 48),
        ("bert", 3, 768, 30522, 3),
    ]  # fmt: skip
    for kind, layers, width, vocabulary, layer in sizes:
        config = AutoConfig.for_model(kind)
        config.num_hidden_layers, config.hidden_size, config.vocab_size = layers, width, vocabulary
        assert _find_layer(config) == layer, kind


def test_the_name_of_the_folder_does_not_change_the_layer(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "deberta-xlarge-mnli")
    pair = (["the left lung"], [["the right lung"]])
    named = BertScorer(str(tmp_path / "deberta-xlarge-mnli"))
    assert (named.layer, named.score(*pair)) == (3, BertScorer(str(tiny_bert)).score(*pair))


def test_an_encoder_not_there_or_pickled_is_one_sentence(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    for name in ("nowhere", "pickled"):
        said = rf"^bertscore_model .*{name}: no encoder with safetensors weights"
        with pytest.raises(ModelFault, match=said) as raised:
            BertScorer(str(tmp_path / name))
        assert len(raised.value.faults) == 1
        assert "\n" not in raised.value.faults[0]


@pytest.fixture(scope="module")
def tiny_clip(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights in Hub format."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"vocab_size": 18, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    text = sizes | tokens | {"max_position_embeddings": 16}
    config = CLIPConfig(text_config=text, vision_config=sizes | {"image_size": 32, "patch_size": 16}, projection_dim=4)
    folder = tmp_path_factory.mktemp("tiny-clip")
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, AutoTokenizer.from_pretrained(tiny_bert)).save_pretrained(folder)
    return folder


def test_imageclef_scores_by_their_definition(tiny_bert: Path, tiny_clip: Path) -> None:
    models = (("imageclef_bertscore", str(tiny_bert)), ("imageclef_similarity", str(tiny_clip)))
    predictions = ["Left LOBE, 3.5", "", "small nodule"]
    references = [["left lobe 12.5"], ["no effusion"], ["ct", "nodule"]]
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    captions = ScoreInput(["x"] * 3, [["x"]] * 3, predictions, references, images, ScoringOptions(score_models=models))
    values, missing = compute_scores(["imageclef2026"], captions)
    each = {name.removesuffix(" (ImageCLEF)"): found.each for name, found in values.items()}
    assert each["ROUGE-1"].tolist() == [1, 0, 2 / 3]  # "left lobe numbernumber" each
    plain = [["left lobe numbernumber"], ["no effusion"], ["ct", "nodule"]]
    expected = BertScorer(str(tiny_bert)).score(["left lobe numbernumber", "", "small nodule"], plain, idf=True)
    assert each["BERTScore"].tolist() == pytest.approx(expected)
    assert each["Similarity"].tolist() == pytest.approx(_compare_by_hand(tiny_clip, predictions, images), abs=1e-5)
    assert each["Similarity"][1] == 0
    means = [each[name] for name in ("BERTScore", "ROUGE-1", "Similarity")]
    assert each["Relevance"].tolist() == pytest.approx(np.mean(means, axis=0))
    assert list(each) == ["BERTScore", "ROUGE-1", "Similarity", "Relevance"]
    assert len(missing["imageclef2026"]) == 4  # BLEURT, UMLS F1, AlignScore and their mean


@torch.no_grad()
def _compare_by_hand(folder: Path, texts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
    from transformers import AutoProcessor, CLIPModel

    model, processor = CLIPModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    scores = []
    for text, image in zip(texts, images, strict=True):
        inputs = processor(text=[text], images=[image], return_tensors="pt", padding="max_length", max_length=16)
        out = model(**inputs)
        scores.append(2.5 * max(float((out.image_embeds * out.text_embeds).sum()), 0) if text else 0)
    return scores


def test_means_lack_where_a_score_does(tiny_bert: Path) -> None:
    options = ScoringOptions(("imageclef2026",), score_models=(("imageclef_bertscore", str(tiny_bert)),))
    said = check_scores(options)
    assert "score_models: {imageclef_similarity: ...}" in said[0]
    captions = ScoreInput(["x"], [["x"]], ["ct"], [["ct"]], options=options)
    assert list(compute_scores(["imageclef2026"], captions)[0]) == ["BERTScore (ImageCLEF)", "ROUGE-1 (ImageCLEF)"]
    with pytest.raises(ConfigFault, match=r"score_models: clip is read by none .* these are: imageclef"):
        check_scores(ScoringOptions(("imageclef2026",), score_models=(("clip", "x"),)))


def test_a_model_without_images_is_no_dual_encoder(tiny_bert: Path) -> None:
    models = (("imageclef_similarity", str(tiny_bert)), ("imageclef_bertscore", str(tiny_bert)))
    said = check_scores(ScoringOptions(("imageclef2026",), score_models=models))
    assert any("dual encoder" in sentence or "can be loaded by that name" in sentence for sentence in said)


def test_of_several_references_the_best_counts() -> None:
    references = [["a b c", "a"], ["a b"]]
    captions = ScoreInput(["x"] * 2, [["x"]] * 2, ["a", "a b c d"], references)

    def compare(expected: list[str], predicted: list[str]) -> list[float]:
        return [abs(len(one) - len(other)) for one, other in zip(expected, predicted, strict=True)]

    values, chosen = pair_best(captions, compare, higher_is_better=False)
    assert (values.tolist(), chosen) == ([0, 4], ["a", "a b"])
    values, chosen = pair_best(captions, compare)
    assert (values.tolist(), chosen) == ([4, 4], ["a b c", "a b"])


def test_f1_of_labels_by_hand() -> None:
    expected = np.array([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    found = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    values = score_labels(expected, found)
    assert values.each.tolist() == [1 / 2, 1, 1]
    assert values.corpus == 2 * 2 / (2 * 2 + 1 + 1)  # two labels in both, one false, one missed
    assert values.counts is not None
    assert values.pool is not None
    assert values.pool(values.counts).tolist() == [2 / 4, 1, 0]  # nothing to find and nothing found is no hit
    assert [keep_sentence(text) for text in ("", "CT", "CT.")] == ["...", "CT...", "CT."]


@pytest.mark.parametrize("key", ["radgraph", "chexbert", "ratescore", "radcliq", "radbert_ct", "radeval_bertscore"])
def test_a_clinical_score_lacks_its_weights_alone(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("radeval", reason="RadEval is not installed (extra radiology)")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    absent = r"(connect|offline|download).* it needs .* in HF_HOME"
    said = rf"cannot load it \(.*({absent}|binary incompat.* 'spacy>=3\.8'), or leave"
    with pytest.raises(ModelFault, match=said) as raised:
        check_scores(ScoringOptions((key,)))
    assert len(raised.value.faults) == 1


def test_scores_of_radeval() -> None:
    """Its BLEU, which needs no weights: it shows RadEval's interface, not the clinical scores."""
    pytest.importorskip("radeval", reason="RadEval is not installed (extra radiology)")
    score = build_score("BLEU by RadEval", "bleu", "bleu", "none", corpus="bleu")
    captions = captions_of(["a small nodule in the left lung", "no effusion"])
    values = score.compute(dataclasses.replace(captions, raw_references=[[captions.predictions[0], "x"], ["y", "z"]]))
    assert values.each.tolist() == [pytest.approx(1), pytest.approx(0, abs=1e-4)]
    assert values.corpus is not None
    assert 0 < values.corpus <= 1


def test_a_missing_package_is_named_before_the_run() -> None:
    if find_spec("radeval") is not None:
        pytest.skip("RadEval is installed")
    with pytest.raises(ModelFault, match=r"pip install -e '\.\[radiology\]'") as raised:
        check_scores(ScoringOptions(("radgraph", "rouge1")))
    assert len(raised.value.faults) == 1
    (radcliq,) = load_scores("radcliq")
    assert radcliq.describe() == "RadCliQ-v1: lower is better, made on chest X-rays."


PLUG_IN = """
import sys

import numpy as np
from medcap_core.errors import ModelFault
from medcap_core.scoring.registry import Score, ScoreInput, ScoreValues

def count_words(captions: ScoreInput) -> ScoreValues:
    return ScoreValues(np.array([len(text.split()) for text in captions.predictions]))

def measure_grey(captions):
    return ScoreValues(np.array([np.asarray(image).mean() for image in captions.images]), corpus=1.5)

def fail(captions):
    raise ModelFault("no weights of this score here; get them from example/weights.")

WORDS = Score("Words", count_words)
SET = (WORDS, Score("Grey", measure_grey, higher_is_better=False, modalities="chest X-rays"), Score("Absent", fail))
RANKED = Score("Fewest words", count_words, higher_is_better=False, may_be_objective=True, scale="from 0")
ABSENT, NO_SCORE, SHORT = SET[2], 3, Score("Short", lambda captions: ScoreValues(np.zeros(1)))
FALSE_NAME = Score("CIDEr", count_words)
MEAN_LENGTH = Score("Mean length", lambda captions: ScoreValues(
    np.array([len(text) / len(text.split()) if text else np.nan for text in captions.predictions])
), may_be_objective=True)
LEAVES = Score("Leaves", lambda captions: sys.exit("bye"), may_be_objective=True)
SEES = Score("Sees", lambda captions: ScoreValues(np.array([image.width for image in captions.images], dtype=float)),
             may_be_objective=True)
WORDY = Score("Wordy", lambda captions: ScoreValues(np.ones(len(captions.predictions)), corpus="high"))
BROKEN = Score("Broken", lambda captions: ScoreValues(np.array([1 / len(text) for text in captions.predictions])))
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with scores, installed as importlib.metadata sees it: its source and the metadata beside it."""
    (tmp_path / "word_scores.py").write_text(PLUG_IN)
    metadata = tmp_path / "word_scores-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: word-scores\nVersion: 1.0\n")
    names = {"words": "WORDS", "both": "SET", "absent": "ABSENT", "odd": "NO_SCORE", "gone": "GONE", "short": "SHORT"}
    names |= {"fewest": "RANKED", "false": "FALSE_NAME", "mean_length": "MEAN_LENGTH", "broken": "BROKEN"}
    names |= {"leaves": "LEAVES", "sees": "SEES", "wordy": "WORDY"}
    lines = [f"{key} = word_scores:{name}" for key, name in names.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[medcap.scores]", *lines, ""]))
    monkeypatch.syspath_prepend(tmp_path)
    forget_scores()
    yield
    forget_scores()
    sys.modules.pop("word_scores", None)


def forget_scores() -> None:
    load_scores.cache_clear()
    find_ranked_score.cache_clear()


def captions_of(predictions: Sequence[str]) -> ScoreInput:
    references = [["a b"]] * len(predictions)
    images = [Image.new("RGB", (2, 2), (9, 9, 9))] * len(predictions)
    return ScoreInput(predictions, references, predictions, references, images)


@pytest.mark.usefixtures("installed")
def test_an_installed_package_adds_scores() -> None:
    assert {"rouge1", "bertscore", "words", "both"} <= set(list_scores())
    values, missing = compute_scores(["rouge1", "both"], captions_of(["a", "a b c"]))
    each = {name: found.each.tolist() for name, found in values.items()}
    assert each == {"ROUGE-1": [2 / 3, 4 / 5], "Words": [1, 3], "Grey": [9, 9]}
    assert (values["Words"].corpus, values["Grey"].corpus) == (None, 1.5)
    assert missing == {"both": ["no weights of this score here; get them from example/weights."]}
    said = [score.describe() for score in load_scores("both")]
    assert said[:2] == ["", "Grey: lower is better, made on chest X-rays."]


@pytest.mark.usefixtures("installed")
def test_what_a_score_lacks_is_known_before_the_run() -> None:
    assert check_scores(ScoringOptions(("words", "rouge1"))) == []
    assert check_scores(ScoringOptions(("both",))) == ["no weights of this score here; get them from example/weights."]
    with pytest.raises(ModelFault, match=r"^no weights of this score here"):
        check_scores(ScoringOptions(("words", "absent")))
    with pytest.raises(ModelFault, match="Short gave figures of shape"):
        check_scores(ScoringOptions(("short",)))
    with pytest.raises(ModelFault, match=r"score Wordy: TypeError, .*; mend package word-scores, or leave 'wordy' out"):
        check_scores(ScoringOptions(("wordy",)))
    with pytest.raises(ModelFault, match="score Leaves: SystemExit, bye; mend package word-scores, or leave 'leaves'"):
        check_scores(ScoringOptions(), ["leaves"])
    assert check_scores(ScoringOptions(("sees",))) == []
    with pytest.raises(ModelFault, match=r"score Sees gave figures of shape \(0,\) instead of \(2,\)"):
        check_scores(ScoringOptions(("sees",)), ["sees"])  # on validation there are no images


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("odd", r"'odd' \(word_scores:NO_SCORE\) is no Score; mend package word-scores, or leave 'odd' out\.$"),
        ("gone", "'gone' cannot be imported from word_scores:GONE"),
        ("false", r"'false' \(word_scores:FALSE_NAME\) has the name of a score of every run, CIDEr"),
        ("other", "'other' is not installed here"),
        ("words", r"'words' cannot be imported from word_scores:WORDS \(division by zero\)"),
    ],
)
def test_a_broken_package_is_one_sentence(key: str, said: str, tmp_path: Path) -> None:
    if key == "words":
        (tmp_path / "word_scores.py").write_text("1 / 0\n")
    with pytest.raises(ConfigFault, match=said) as raised:
        load_scores(key)
    assert len(raised.value.faults) == 1


@pytest.mark.usefixtures("installed")
def test_a_score_that_fails_on_one_caption_costs_no_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medcap_core.scoring.captions.STANDARD", ("CIDEr",))  # METEOR takes seconds
    keys = ("broken", "mean_length", "words")
    assert check_scores(ScoringOptions(keys)) == []
    scorer = CaptionScorer(["a b", "c"], ScoringOptions(keys))
    assert list(scorer.score(["a b", ""]).scores) == ["CIDEr", "Words"]
    assert (
        "score Broken: ZeroDivisionError, division by zero; mend package word-scores, or leave 'broken' out."
        in caplog.text
    )
    assert "score Mean length gave no finite figure for image 2 of 2; mend package word-scores" in caplog.text
    with pytest.raises(ModelFault, match="Mean length gave no finite figure for image 2 of 2"):
        scorer.compute(["mean_length"], ["a b", ""])


@pytest.mark.usefixtures("installed")
def test_trials_may_be_ranked_by_a_score_that_allows_it() -> None:
    objective = read_objective({"fewest": 0.5, "rouge1": 2})
    assert (objective.label, objective.direction) == ("- 0.5 Fewest words + 2 ROUGE-1", "maximize")
    assert read_objective("fewest").direction == "minimize"
    scores = CaptionScorer(["a b", "c"]).compute(objective.names, ["a b c", "c"])
    assert scores == {"fewest": 2, "rouge1": pytest.approx((0.8 + 1) / 2)}
    assert objective.combine(scores) == pytest.approx(-0.5 * 2 + 2 * 0.9)
    for name in ("words", "both", "bertscore"):
        with pytest.raises(ValueError, match="is no score that trials can be ranked by"):
            read_objective({name: 1, "CIDEr": 1})
    with pytest.raises(ModelFault, match="bertscore_model /no/where"):
        check_scores(ScoringOptions(bertscore_model="/no/where"), ["bertscore", "CIDEr"])


@pytest.mark.usefixtures("installed")
def test_a_score_provided_twice_is_refused(tmp_path: Path) -> None:
    points = tmp_path / "word_scores-1.0.dist-info" / "entry_points.txt"
    points.write_text("[medcap.scores]\nrouge1 = word_scores:WORDS\n")
    with pytest.raises(ConfigFault, match="'rouge1' is provided twice"):
        list_scores()
