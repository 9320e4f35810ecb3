"""The random starting point of the embedded model: Hub format, a vocabulary that spells anything, room for 8 MB."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, BlipForConditionalGeneration, BlipProcessor

from medcap_core.config import TrialConfig
from medcap_core.data.phantoms import load_phantoms
from medcap_core.models import EMBEDDED_MODELS, load_captioner
from medcap_core.pretraining.phantom_blip import build_phantom_blip, build_vocabulary
from medcap_core.scoring.baselines import choose_caption_prior
from medcap_core.scoring.captions import CaptionScorer

UNKNOWN_ID = 1


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phantom-blip")
    build_phantom_blip(path, seed=5)
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> BlipForConditionalGeneration:
    return BlipForConditionalGeneration.from_pretrained(directory).eval()


@pytest.fixture(scope="module")
def processor(directory: Path) -> BlipProcessor:
    return AutoProcessor.from_pretrained(directory)


def test_size(directory: Path, model: BlipForConditionalGeneration) -> None:
    assert 1_500_000 < sum(parameter.numel() for parameter in model.parameters()) < 1_900_000
    assert (directory / "model.safetensors").stat().st_size < 7_500_000
    assert sum(file.stat().st_size for file in directory.iterdir()) < 8_000_000


def test_ids_agree_between_model_and_tokenizer(model: BlipForConditionalGeneration, processor: BlipProcessor) -> None:
    text, tokenizer = model.config.text_config, processor.tokenizer
    assert tokenizer.convert_ids_to_tokens(
        [text.bos_token_id, text.eos_token_id, text.sep_token_id, text.pad_token_id]
    ) == ["[DEC]", "[SEP]", "[SEP]", "[PAD]"]
    assert tokenizer.bos_token_id == text.bos_token_id
    assert text.vocab_size == len(tokenizer) == len(build_vocabulary())
    assert "[ENC]" in tokenizer.all_special_tokens


def test_output_layer_is_tied_and_survives_saving(model: BlipForConditionalGeneration, tmp_path: Path) -> None:
    decoder = model.text_decoder
    words, output = decoder.bert.embeddings.word_embeddings.weight, decoder.cls.predictions.decoder.weight
    assert words.data_ptr() == output.data_ptr()
    model.save_pretrained(tmp_path)
    again = BlipForConditionalGeneration.from_pretrained(tmp_path).eval()
    inputs = {
        "pixel_values": torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)),
        "input_ids": torch.tensor([[5, 11, 200, 3], [5, 900, 31, 3]]),
    }
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)


def test_same_seed_same_weights_and_the_random_state_is_left_alone(directory: Path, tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    build_phantom_blip(tmp_path / "same", seed=5)
    assert torch.equal(torch.rand(3), expected)
    build_phantom_blip(tmp_path / "other", seed=6)
    stored = (directory / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == stored
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != stored


def test_images_become_96_pixels_with_clip_statistics(processor: BlipProcessor) -> None:
    record = load_phantoms(sizes={"train": 1}).splits["train"][0]
    pixels = processor(images=record.image.open().convert("RGB"), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 96, 96)
    assert processor.image_processor.resample == 3
    assert processor.image_processor.image_mean == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert processor.image_processor.image_std == pytest.approx([0.26862954, 0.26130258, 0.27577711])


def test_generates_ids_that_decode_to_text(model: BlipForConditionalGeneration, processor: BlipProcessor) -> None:
    pixels = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    ids = model.generate(pixel_values=pixels, num_beams=2, max_new_tokens=7)
    assert ids.shape[0] == 3
    assert ids.shape[1] <= 8
    assert set(ids[:, 0].tolist()) == {model.config.text_config.bos_token_id}
    assert "[" not in processor.decode(ids[0], skip_special_tokens=True)


def test_captions_of_up_to_256_tokens_fit(model: BlipForConditionalGeneration) -> None:
    with torch.no_grad():
        logits = model(pixel_values=torch.zeros(1, 3, 96, 96), input_ids=torch.full((1, 256), 9)).logits
    assert logits.shape == (1, 256, len(build_vocabulary()))


def test_no_phantom_caption_has_an_unknown_or_a_broken_word(processor: BlipProcessor) -> None:
    for domain in ("general", "target"):
        for record in load_phantoms(domain, {"train": 400}).splits["train"]:
            tokens = processor.tokenizer.tokenize(record.caption)
            assert "[UNK]" not in tokens, record.caption
            assert not [token for token in tokens if token.startswith("##")], record.caption


@pytest.mark.parametrize(
    "text",
    [
        "pneumoperitoneum",
        "rocov2_2023",
        "“°µ",
        "t2-weighted, 5×3 cm; β-blocker ≥ 2 µm (arrow)",
        "xqzjkvwy0123456789",
        "a/b|c\\d~e^f`g{h}i[j]k<l>m",
        "esophagogastroduodenoscopy",
    ],
)
def test_any_word_can_be_spelled(processor: BlipProcessor, text: str) -> None:
    ids = processor.tokenizer(text).input_ids
    assert UNKNOWN_ID not in ids
    spelled = processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert spelled.replace(" ", "") == text.replace(" ", "")


def test_capitals_and_accents_are_folded(processor: BlipProcessor) -> None:
    decode, tokenizer = processor.tokenizer.decode, processor.tokenizer
    assert decode(tokenizer("Sjögren NAÏVE Café").input_ids, skip_special_tokens=True) == "sjogren naive cafe"


def test_an_image_size_that_the_patches_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 16, but it is 100"):
        build_phantom_blip(tmp_path, seed=0, image_size=100)


def test_another_image_size(tmp_path: Path) -> None:
    build_phantom_blip(tmp_path, seed=0, image_size=48)
    assert BlipForConditionalGeneration.from_pretrained(tmp_path).config.vision_config.image_size == 48
    assert AutoProcessor.from_pretrained(tmp_path).image_processor.size["height"] == 48


def test_the_embedded_model_has_todays_vocabulary_and_fits_its_8_megabytes() -> None:
    folder = EMBEDDED_MODELS["phantom-blip"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8_000_000
    assert AutoProcessor.from_pretrained(folder).tokenizer.get_vocab() == build_vocabulary()


def test_the_embedded_model_captions_general_phantoms_far_better_than_one_caption_for_all() -> None:
    general = load_phantoms("general", {"train": 60, "validation": 40})
    captioner = load_captioner("phantom-blip")
    records = general.splits["validation"]
    pixels = [captioner.geometry.decode(record.image) for record in records]
    config = TrialConfig(num_beams=1)
    with torch.inference_mode():
        captions = captioner.generate(captioner.encode_images(torch.from_numpy(np.stack(pixels))), config)
    scorer = CaptionScorer([record.caption for record in records])
    prior = choose_caption_prior([record.caption for record in general.splits["train"]], seed=0)
    assert scorer.cider(captions) > 3 * scorer.cider([prior] * len(records))
