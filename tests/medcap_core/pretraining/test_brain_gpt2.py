"""The embedded language model: Hub format, and it says what a bag of words in the image's place tells it to."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from medcap_core.data.brain_phantoms import load_brain_phantoms
from medcap_core.data.brain_phantoms.cohorts import TRAINING_COHORTS
from medcap_core.data.brain_phantoms.subjects import Facts
from medcap_core.data.brain_phantoms.texts import TextExample, draw_example, list_fact_words
from medcap_core.data.brain_phantoms.wording import SEX_QUESTION, SIDE_QUESTION, VENTRICLE_QUESTION, write_report
from medcap_core.data.brain_phantoms.wording import ask as ask_all
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, Diagnosis, ScanRecord
from medcap_core.models import EMBEDDED_MODELS
from medcap_core.pretraining.brain_gpt2 import (
    BagTokenizer,
    Batch,
    Row,
    build_batch,
    build_batches,
    build_brain_gpt2,
    build_prompt,
    build_tokenizer,
    compute_loss,
    disturb,
    evaluate,
    generate_text,
    save_brain_gpt2,
)

FACTS = Facts(
    diagnosis=Diagnosis.MCI,
    age=66,
    sex="female",
    ventricles="severe",
    hippocampi="normal",
    cortex="mild",
    side="right",
    structure="cortex",
)


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return AutoModelForCausalLM.from_pretrained(EMBEDDED_MODELS["brain-gpt2"]).eval()


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return AutoTokenizer.from_pretrained(EMBEDDED_MODELS["brain-gpt2"])


def ask(model: GPT2LMHeadModel, tokenizer: object, question: str | None, *bag: str) -> str:
    return generate_text(model, tokenizer, TextExample(question, "", bag, "", FACTS, "phantom-alder"))


def test_the_shipped_folder_is_in_hub_format_and_small(model: GPT2LMHeadModel, tokenizer: object) -> None:
    files = {file.name: file.stat().st_size for file in EMBEDDED_MODELS["brain-gpt2"].iterdir()}
    assert set(files) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) < 3_000_000
    assert isinstance(model, GPT2LMHeadModel)
    assert model.dtype == torch.float32
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()  # type: ignore[attr-defined]
    assert len(tokenizer) == model.config.vocab_size  # type: ignore[arg-type]
    ids = (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id)
    assert ids == (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("question", "bag", "answer"),
    [
        (DIAGNOSIS_QUESTION, ("ageeighties", "demented", "normalcortex"), "dementia"),
        (DIAGNOSIS_QUESTION, ("severeventricles", "notdemented", "hippocampusshrunk", "malesex"), "not demented"),
        (DIAGNOSIS_QUESTION, ("the", "mildimpairment", "agefifties", "of"), "mild cognitive impairment"),
        (SEX_QUESTION, ("severecortex", "femalesex"), "female"),
        (SIDE_QUESTION, ("leftsmaller", "mildventricles", "demented"), "left"),
        (SIDE_QUESTION, ("demented", "cortexshrunk", "neithersmaller", "femalesex"), "neither"),
        (VENTRICLE_QUESTION, ("severecortex", "severehippocampi", "mildventricles"), "mildly enlarged"),
        (VENTRICLE_QUESTION, ("normalventricles", "severecortex", "demented"), "normal"),
    ],
)
def test_it_answers_by_the_words_it_is_given(
    model: GPT2LMHeadModel, tokenizer: object, question: str, bag: tuple[str, ...], answer: str
) -> None:
    assert ask(model, tokenizer, question, *bag) == answer


def test_it_writes_the_report_of_a_whole_bag(model: GPT2LMHeadModel, tokenizer: object) -> None:
    bag = ("rightsmaller", "mildcortex", "birch", "femalesex", "normalhippocampi", "agesixties", "severeventricles")
    said = ask(model, tokenizer, None, *bag)
    assert said in {
        f"{who} no atrophy of the hippocampi, more loss in the right hippocampus. severe enlargement of the ventricles "
        "and mild atrophy of the cortex."
        for who in ("female subject in her sixties.", "this female subject is in her sixties.")
    }


def test_it_is_right_about_subjects_it_has_not_met(model: GPT2LMHeadModel, tokenizer: object) -> None:
    counts = evaluate(model, tokenizer, 40, seed=17)
    assert set(counts) == {"diagnosis", "report", "sex", "side", "structure", "ventricles"}
    assert sum(right for right, _ in counts.values()) >= 38


def test_embeddings_near_the_words_will_do(model: GPT2LMHeadModel, tokenizer: object) -> None:
    """Half the size or twice, with noise, two words in one embedding: as image tokens may be."""
    generator = torch.Generator().manual_seed(0)
    words = model.get_input_embeddings()

    def embed(text: str) -> torch.Tensor:
        return words(torch.tensor(tokenizer(text, add_special_tokens=False).input_ids))  # type: ignore[operator]

    spread = words.weight.std()
    for scale in (0.5, 1.0, 2.0):
        for side, other in (("left", "right"), ("right", "left")):
            # Each a finding and its neighbour in equal parts.
            context = torch.stack([embed(words).mean(0) for words in ("mildventricles the", f"{side}smaller demented")])
            context = scale * (context + 0.2 * spread * torch.randn(context.shape, generator=generator))
            embedded = torch.cat([embed(build_prompt(SIDE_QUESTION)), context])[None]
            with torch.no_grad():
                logits = model(inputs_embeds=embedded).logits[0, -1]
            ids = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in (side, other)]  # type: ignore[operator]
            assert logits[ids[0]] > logits[ids[1]], (scale, side)


def test_every_word_of_reports_and_answers_is_one_token_and_any_text_can_be_spelled(tokenizer: object) -> None:
    split = tokenizer.tokenize  # type: ignore[attr-defined]
    records = load_brain_phantoms({"train": 60}).splits["train"]
    for record in records:
        assert isinstance(record, ScanRecord)
        for text in (record.caption, *(f"{question.text} {question.answer}" for question in record.questions)):
            assert len(split(text)) == len(re.findall(r"\w+|[^\w\s]", text)), text
    for text in ("pneumoencephalography", "t2*, 5×3 cm", "βάθος"):
        ids = tokenizer(text).input_ids  # type: ignore[operator]
        assert tokenizer.unk_token_id not in ids  # type: ignore[attr-defined]
        assert tokenizer.decode(ids).strip() == text  # type: ignore[attr-defined]
    assert split("Dementia") == split(" dementia") == ["Ġdementia"]


def test_same_seed_same_weights_and_saving_keeps_them(tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, tokenizer = build_brain_gpt2(5)
    assert torch.equal(torch.rand(3), expected)
    save_brain_gpt2(first, tokenizer, tmp_path / "a")
    save_brain_gpt2(build_brain_gpt2(5)[0], tokenizer, tmp_path / "b")
    save_brain_gpt2(build_brain_gpt2(6)[0], tokenizer, tmp_path / "c")
    stored = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert stored[0] == stored[1] != stored[2]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert again.dtype == torch.float32
    assert torch.equal(again.transformer.wte.weight, first.transformer.wte.weight)


def test_bags_hold_a_word_for_each_fact() -> None:
    assert list_fact_words(FACTS, "phantom-cedar") == [
        "mildimpairment",
        "femalesex",
        "agesixties",
        "severeventricles",
        "normalhippocampi",
        "mildcortex",
        "rightsmaller",
        "cortexshrunk",
        "cedar",
    ]
    rng = np.random.default_rng(3)
    kinds = set()
    for _ in range(60):
        example = draw_example(rng, whole=True)
        assert sorted(example.bag) == sorted(list_fact_words(example.facts, example.cohort))
        assert example.cohort in TRAINING_COHORTS
        if example.question is None:
            reports = {write_report(example.cohort, example.facts, np.random.default_rng(seed)) for seed in range(20)}
            assert example.answer in reports
            assert len(reports) == 2
        else:
            assert (example.kind, example.question, example.answer) in {
                (question.kind, question.text, question.answer) for question in ask_all(example.facts)
            }
        kinds.add(example.kind)
    assert len(kinds) == 6


def test_a_batch_is_prompt_context_answer() -> None:
    tokenizer = build_tokenizer()
    writer = BagTokenizer(tokenizer)
    prompt, answer = writer.tokenize("Report:"), [*writer.tokenize("dementia"), tokenizer.eos_token_id]
    left, woman = writer.tokenize("left")[0], writer.tokenize("woman")[0]
    context = [([left], [1.0]), ([left, woman], [0.75, 0.5])]
    batch = build_batch([Row(prompt, context, answer), Row(prompt, [], answer)])
    ids, weights, labels, is_context = batch
    assert ids.shape == (2, 6, 3)
    assert ids[0, :, 0].tolist() == [*prompt, left, left, *answer]
    assert weights[0, 3].tolist() == [0.75, 0.5, 0.0]
    assert labels[0].tolist() == [-100, prompt[1], -100, -100, *answer]
    assert labels[1].tolist() == [-100, prompt[1], *answer, -100, -100]
    assert is_context.tolist() == [[False, False, True, True, False, False], [False] * 6]
    assert weights[1, 4:].sum() == 0


def test_only_the_context_is_disturbed() -> None:
    generator = torch.Generator().manual_seed(0)
    embedded = torch.randn(3, 5, 7, generator=generator)
    is_context = torch.zeros(3, 5, dtype=torch.bool)
    is_context[:, 1:3] = True
    assert torch.equal(disturb(embedded, is_context, 0.0, generator), embedded)
    disturbed = disturb(embedded, is_context, 1.0, generator)
    assert torch.equal(disturbed[~is_context], embedded[~is_context])
    assert (disturbed[is_context] != embedded[is_context]).all()


def test_the_loss_worked_out_from_the_logits_and_what_stands_after_a_text_changes_nothing() -> None:
    model, tokenizer = build_brain_gpt2(0)
    generator = torch.Generator().manual_seed(0)
    writer = BagTokenizer(tokenizer)
    words = writer.tokenize("leftsmaller femalesex demented")
    row = Row(writer.tokenize("Report:"), [([word], [1.0]) for word in words], writer.tokenize("no dementia ."))
    ids = torch.tensor([[*row.prompt, *words, *row.answer]])
    with torch.no_grad():
        losses = -model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        # Prompt of 2 words, context of 3, answer of 3: what is said at places 1, 5, 6 and 7 is told one place before.
        expected = losses[[0, 4, 5, 6]].mean()
        alone = compute_loss(model, build_batch([row]), 0.0, generator)
        both = build_batch([row, row._replace(context=row.context * 3)])
        padded = compute_loss(model, Batch(*(values[:1] for values in both)), 0.0, generator)
    assert alone.item() == pytest.approx(expected.item(), rel=1e-5)
    assert padded.item() == pytest.approx(alone.item(), rel=1e-5)


def test_training_lowers_the_loss() -> None:
    model, tokenizer = build_brain_gpt2(0)
    generator, writer = torch.Generator().manual_seed(0), BagTokenizer(tokenizer)
    batch = build_batches(writer, np.random.default_rng(0), 6, 1)[0]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = compute_loss(model, batch, 0.3, generator)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
