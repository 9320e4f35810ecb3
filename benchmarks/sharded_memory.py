"""Memory that weights, gradients and optimizer state of large captioners take on each of several cards.

python -m benchmarks.sharded_memory

Nothing is allocated: the tensors are on PyTorch's `meta` device, and the bytes are those of the shards that the first
worker has by `parallel: fsdp`. What a step takes beside (activations, gathered weights) depends on the batch.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import (
    BertTokenizerFast,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from benchmarks.machine import print_table
from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.models import Captioner
from medcap_core.models.blip.captioner import BlipCaptioner
from medcap_core.models.blip2 import Blip2Captioner
from medcap_core.models.tuning import apply_tuning, cast_frozen
from medcap_core.training.parallel import shard_model

NUM_CARDS = (1, 2, 4, 8)


def build_blip2() -> Captioner:
    """Build BLIP-2 with OPT-6.7B, by its shape."""
    text = {
        "model_type": "opt", "vocab_size": 50304, "hidden_size": 4096, "word_embed_proj_dim": 4096, "ffn_dim": 16384,
        "num_hidden_layers": 32, "num_attention_heads": 32,
    }  # fmt: skip
    tokenizer = BertTokenizerFast(vocab={"[PAD]": 0})
    return Blip2Captioner(
        Blip2ForConditionalGeneration(Blip2Config(text_config=text)), Blip2Processor(BlipImageProcessor(), tokenizer)
    )


def build_blip_large() -> Captioner:
    """Build BLIP-large at 384 pixels, by its shape."""
    config = BlipConfig(
        vision_config={
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": 384,
        },
        text_config={"encoder_hidden_size": 1024, "num_attention_heads": 12},
    )  # fmt: skip
    tokenizer = BertTokenizerFast(vocab={"[PAD]": 0})
    return BlipCaptioner(BlipForConditionalGeneration(config), BlipProcessor(BlipImageProcessor(), tokenizer))


def count_bytes(tensors: Iterable[Any]) -> int:
    """Count the bytes of what this worker holds of the tensors."""
    own = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return sum(tensor.nbytes for tensor in own if isinstance(tensor, Tensor))


def measure(build: Callable[[], Captioner], freeze: FreezeMode, num_cards: int) -> tuple[int, int, int, int]:
    """Prepare a captioner as a trial in bf16 on CUDA does, take an optimizer step, and count what is held.

    Returns the trained parameters of the model, and bytes of weights, gradients and optimizer state on a card.
    """
    config = TrialConfig(freeze=freeze, precision="bf16")
    with torch.device("meta"):
        captioner = build()
        tuning = apply_tuning(captioner, config)
        cast_frozen(captioner, torch.bfloat16)
    if num_cards > 1:
        dist.init_process_group("fake", rank=0, world_size=num_cards, store=FakeStore())
        shard_model(captioner, init_device_mesh("cpu", (num_cards,)), torch.bfloat16)
    trained = [parameter for parameter in captioner.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    weights = count_bytes(captioner.parameters())
    gradients = count_bytes(parameter.grad for parameter in trained)
    state = count_bytes(value for values in optimizer.state.values() for value in values.values())
    if num_cards > 1:
        dist.destroy_process_group()
    return tuning.trainable_parameters, weights, gradients, state


def main() -> None:
    """Print the table."""
    rows = []
    for name, build in (("BLIP-2 6.7B", build_blip2), ("BLIP-large", build_blip_large)):
        for freeze in (FreezeMode.LORA, FreezeMode.FULL):
            for num_cards in NUM_CARDS:
                trained, *parts = measure(build, freeze, num_cards)
                gigabytes = [f"{number / 1e9:.2f}" for number in (*parts, sum(parts))]
                rows.append([name, freeze, f"{trained / 1e6:,.1f}", num_cards, *gigabytes])
    parts = ["weights, GB", "gradients, GB", "optimizer, GB", "a card, GB"]
    print_table(["model", "freeze", "trained, millions", "cards", *parts], rows)


if __name__ == "__main__":
    main()
