"""Steps and captions of a vision-language model, beside transformers' own `forward` and `generate` with peft's LoRA.

Both sides have the same weights, the same prompts, images and captions, and the same optimizer. transformers is given
pixels that its image processor has prepared before; "from pixels" includes that work here. On a CPU the time is the
processor's own, on one thread, so that other load counts little.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast, Qwen3VLConfig

from benchmarks.machine import describe_machine, print_table, tell, time_call
from benchmarks.micro_model import FeatureSource
from benchmarks.synthetic import make_random_split
from medcap_core.config import TrialConfig
from medcap_core.data.batches import BatchMaker, ImageSource, PixelSource
from medcap_core.models import load_trial_captioner
from medcap_core.models.tuning import apply_tuning
from medcap_core.models.vlm.captioner import VlmCaptioner
from medcap_core.models.vlm.processing import prepare_pixels
from medcap_core.runtime.device import autocast, choose_precision, current_device
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.runtime.transfer import move
from medcap_core.training.optimization import build_optimizer
from medcap_core.training.steps import LaunchedSteps

NUM_WORDS, NUM_TOKENS = 8000, 24
PROMPT = "w1 w2 w3"
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def save_random_qwen3_vl(directory: Path) -> Path:
    """Save a small Qwen3-VL of random weights in Hub format; its words are w0 to w7999."""
    special = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(NUM_WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.chat_template = _TEMPLATE
    ids = dict(zip(special, tokenizer.convert_tokens_to_ids(special), strict=True))
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4,
            "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "mrope_section": [12, 10, 10]},
        },
        vision_config={
            "depth": 6, "hidden_size": 128, "intermediate_size": 512, "num_heads": 4, "out_hidden_size": 192,
            "num_position_embeddings": 196, "deepstack_visual_indexes": [1, 3, 5],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoModelForImageTextToText.from_config(config)
    network.generation_config.eos_token_id = network.generation_config.pad_token_id = ids["<|im_end|>"]
    network.save_pretrained(directory)
    processor_of = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16, "merge_size": 2}
    (directory / "preprocessor_config.json").write_text(json.dumps(processor_of))
    tokenizer.save_pretrained(directory)
    return directory


def measure(config: TrialConfig, batch_size: int) -> list[list[object]]:
    """Time a LoRA step and captions of one batch: rows of the printed table."""
    device, rows = current_device(), np.arange(batch_size)
    captioner = load_trial_captioner(config, device)
    assert isinstance(captioner, VlmCaptioner)
    apply_tuning(captioner, config)
    captioner.to(device)
    images = PixelSource(make_random_split(batch_size, captioner.geometry.size))
    pixels = images.fetch(rows)
    words = np.random.default_rng(0).integers(0, NUM_WORDS, (batch_size, NUM_TOKENS - 1))
    texts = captioner.tokenize([" ".join(f"w{word}" for word in row) for row in words], config)
    with torch.inference_mode(), autocast(device, choose_precision(config, device)):
        features = captioner.eval().encode_images(move(pixels, device))
    steps = LaunchedSteps(captioner, build_optimizer(captioner, config), torch.amp.GradScaler(enabled=False), config)
    sources: dict[str, ImageSource] = {"features": FeatureSource(features.clone()), "pixels": images}

    def step(source: str) -> None:
        captioner.train()
        captioner.encoder.eval()
        batch = BatchMaker(sources[source], texts, device).make(rows)
        steps.take([batch], texts.count_labels(rows))

    @torch.inference_mode()
    def caption(source: str, num_beams: int) -> None:
        captioner.eval()
        with autocast(device, choose_precision(config, device)):
            encoded = move(sources[source].fetch(rows), device)
            encoded = encoded if source == "features" else captioner.encode_images(encoded)
            captioner.generate(encoded, config.model_copy(update={"num_beams": num_beams}))

    plain = PlainModel(captioner, config, pixels, texts.batch(rows), device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    table: list[list[object]] = []
    calls: dict[str, tuple[Any, Any, Any]] = {
        "LoRA step": (lambda: step("features"), lambda: step("pixels"), plain.step),
        "captions, greedy": (lambda: caption("features", 1), lambda: caption("pixels", 1), lambda: plain.caption(1)),
        "captions, 3 beams": (lambda: caption("features", 3), lambda: caption("pixels", 3), lambda: plain.caption(3)),
    }
    for name, sides in calls.items():
        tell(f"measuring {name}")
        seconds = [1000 * time_call(side, clock=clock) / batch_size for side in sides]
        table.append([name, *seconds, f"{seconds[2] / seconds[0]:.2f}x"])
    return table


class PlainModel:
    """The same checkpoint in transformers and peft alone, given the whole input of one batch."""

    def __init__(
        self,
        captioner: VlmCaptioner,
        config: TrialConfig,
        pixels: Tensor,
        texts: tuple[Tensor, ...],
        device: torch.device,
    ) -> None:
        base = AutoModelForImageTextToText.from_pretrained(config.model).to(device)
        settings = LoraConfig(r=config.lora_rank, target_modules=captioner.lora_patterns[config.lora_targets])
        self.network = get_peft_model(base, settings)
        self.device, self.precision = device, choose_precision(config, device)
        input_ids, labels = (move(text, device) for text in texts)
        layout, rows = captioner.prompt_layout, len(input_ids)
        images = prepare_pixels(captioner.processor, move(pixels, device), {"pixel_values", *layout.image_inputs})
        types = captioner._token_types(rows, input_ids.shape[1] - layout.length, device)
        self.training_inputs = {"input_ids": input_ids, "labels": labels, **images, **types}
        prompts = layout.ids.to(device).repeat(rows, 1)
        self.prompts = {"input_ids": prompts, **images, **captioner._token_types(rows, 0, device)}
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, fused=True)

    def step(self) -> None:
        """Train one step on the batch."""
        self.network.train()
        with autocast(self.device, self.precision):
            loss = self.network(**self.training_inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def caption(self, num_beams: int) -> None:
        """Generate captions of the batch."""
        self.network.eval()
        length = {"max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS}
        with autocast(self.device, self.precision):
            self.network.generate(**self.prompts, **length, num_beams=num_beams, do_sample=False)


def main(
    model: Annotated[str, typer.Option(help="A folder or Hub name; by default a random Qwen3-VL.")] = "",
    image_size: int = 224,
    batch_size: int = 4,
) -> None:
    """Print milliseconds an image."""
    set_up_libraries()
    if current_device().type == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="medcap-vlm-") as scratch:
        source = model or str(save_random_qwen3_vl(Path(scratch)))
        config = TrialConfig(
            model=source, image_size=image_size, freeze="lora", lora_targets="attention_mlp", batch_size=batch_size,
            prompt=PROMPT, max_new_tokens=NUM_TOKENS, min_new_tokens=NUM_TOKENS, label_smoothing=0.0,
        )  # fmt: skip
        print(
            f"# {model or 'random Qwen3-VL'}, {image_size} px, batch {batch_size}; {describe_machine()}\n", flush=True
        )
        sides = ("ours, features stored", "ours, from pixels", "transformers", "transformers / ours, stored")
        print_table(("ms an image", *sides), measure(config, batch_size))


if __name__ == "__main__":
    typer.run(main)
