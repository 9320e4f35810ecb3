"""MedBLIP in 3D at the size of its paper: parameters and memory worked out, and one training step where a GPU is.

python -m benchmarks.full_size_medblip3d [--language-model flan-t5-xl | gpt2-2.7b] [--batch-size 7] [--run]

Weights are random and the volumes noise, which changes nothing about the work done. Without a GPU nothing is allocated,
the parameters are counted on PyTorch's `meta` device, unless `--run` asks for the step on the CPU.
"""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import typer
from torch import Tensor
from transformers import Blip2QFormerConfig, Blip2VisionConfig, GPT2Config, T5Config

from benchmarks.machine import describe_machine, print_table, synchronize, tell
from medcap_core.models.medblip3d.network import MedBlip3dConfig, MedBlip3dNetwork
from medcap_core.runtime.device import PeakMemory, current_device

LanguageModel = Literal["flan-t5-xl", "gpt2-2.7b"]
TRAINED = ("patch_embedding", "position_embedding", "qformer", "query_tokens", "text_embeddings", "image_norm",
           "projection", "temperature")  # fmt: skip
"""Parts of the names of what the paper trains; all else is frozen and lies in bf16."""
ADAM_STATES = 2
NUM_TEXT_TOKENS = 64


def describe_language_model(name: LanguageModel) -> Any:
    """Build the config of a published language model, by its shape."""
    if name == "flan-t5-xl":
        return T5Config(
            vocab_size=32128, d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
        )  # fmt: skip
    return GPT2Config(vocab_size=28896, n_embd=2560, n_layer=32, n_head=20, n_positions=1024)  # BioMedLM's shape


def describe_network(language_model: LanguageModel) -> MedBlip3dConfig:
    """BLIP-2's ViT-g (width 1408, 39 blocks) over 343 patches of 224 voxels a side, a Q-Former of BERT-base's size."""
    text_config = describe_language_model(language_model)
    qformer = Blip2QFormerConfig(
        vocab_size=text_config.vocab_size, encoder_hidden_size=1408, use_qformer_text_input=True, pad_token_id=0
    )
    return MedBlip3dConfig(
        vision_config=Blip2VisionConfig().to_dict(), qformer_config=qformer.to_dict(), text_config=text_config.to_dict()
    )


def is_trained(name: str) -> bool:
    """Whether the paper trains this parameter."""
    return not name.startswith("language_model.") and ".blocks." not in name and any(part in name for part in TRAINED)


def count_parameters(network: MedBlip3dNetwork) -> Mapping[str, tuple[int, int]]:
    """Part -> (parameters, of them trained)."""
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in network.named_parameters():
        part = name.split(".")[0] if not name.startswith("encoder.") else ".".join(name.split(".")[:2])
        known, trained = counts.get(part, (0, 0))
        counts[part] = (known + parameter.numel(), trained + parameter.numel() * is_trained(name))
    return counts


def run_step(config: MedBlip3dConfig, batch_size: int, device: torch.device) -> tuple[float, float]:
    """(seconds of a warm forward and backward step, peak bytes)."""
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        try:
            network = MedBlip3dNetwork(config)
        finally:
            torch.set_default_dtype(torch.float32)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(is_trained(name))
        if is_trained(name):
            parameter.data = parameter.data.float()
    network.train()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, weight_decay=1e-4, fused=True)
    volumes = torch.rand(batch_size, 1, config.volume_size, config.volume_size, config.volume_size, device=device)
    ids = torch.randint(5, 20000, (batch_size, NUM_TEXT_TOKENS), device=device)
    memory = PeakMemory(device)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            compute_word_loss(network, volumes, ids).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    memory.sample()
    synchronize()
    started = time.perf_counter()
    step()
    synchronize()
    return time.perf_counter() - started, memory.sample()


def compute_word_loss(network: MedBlip3dNetwork, volumes: Tensor, ids: Tensor) -> Tensor:
    """Compute the language model's loss on random tokens after the image, and let the Q-Former read them."""
    found = network.query_scans(network.encoder(volumes))
    mask = torch.ones_like(ids)
    similarity = (
        network.project_queries(found).flatten(1).mean()
        * network.project_texts(ids, mask, mask, network.report_projection).mean()
    )
    images = network.language_projection(found)
    if network.language_model.config.is_encoder_decoder:
        loss: Tensor = network.language_model(inputs_embeds=images, labels=ids).loss
    else:
        embedded = torch.cat([images, network.get_input_embeddings()(ids).to(images.dtype)], dim=1)
        labels = torch.cat([ids.new_full(images.shape[:2], -100), ids], dim=1)
        loss = network.language_model(inputs_embeds=embedded, labels=labels).loss
    return loss + similarity


def main(
    language_model: Annotated[LanguageModel, typer.Option()] = "flan-t5-xl",
    batch_size: Annotated[int, typer.Option(min=1)] = 7,
    run: Annotated[bool, typer.Option("--run", help="take the step on a CPU too")] = False,
) -> None:
    """Count the full-size model's parameters and memory, and take a step where there is a GPU."""
    device = current_device()
    tell(describe_machine())
    config = describe_network(language_model)
    with torch.device("meta"):
        counts = count_parameters(MedBlip3dNetwork(config))
    total, trained = (sum(count[index] for count in counts.values()) for index in (0, 1))
    rows = [[part, f"{number:,}", f"{own:,}"] for part, (number, own) in counts.items()]
    print_table(["part", "parameters", "trained"], [*rows, ["all", f"{total:,}", f"{trained:,}"]])
    frozen_bytes = 2 * (total - trained)
    trained_bytes = 4 * trained * (1 + 1 + ADAM_STATES)  # weight, gradient and optimizer state in float32
    tell(
        f"Memory before activations: {frozen_bytes / 1e9:.2f} GB of frozen weights in bf16 and "
        f"{trained_bytes / 1e9:.2f} GB for what is trained (weights, gradients and AdamW's states in float32)."
    )
    if device.type == "cpu" and not run:
        tell("No GPU: no step was taken (--run takes one on the CPU).")
        return
    seconds, peak_bytes = run_step(config, batch_size, device)
    tell(f"Batch {batch_size} on {device}: {seconds:.2f} s a step, peak memory {peak_bytes / 1e9:.1f} GB.")


if __name__ == "__main__":
    typer.run(main)
