"""Inputs of vision-language models as plain transformers makes them, for comparison."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer


def build_plain_inputs(folder: Path, images: list[Image.Image], prompt: str, answers: list[str] | None = None) -> Any:
    """The inputs for `prompt` about each image, padded on the right, by the processor saved in `folder`.

    `answers` follow the generation prompt with the end of the assistant's turn, if any.
    """
    kind = folder.name.partition("-")[0]
    if kind.startswith(("qwen", "internvl", "llava_onevision")) or kind == "gemma4":
        return _lay_out_by_hand(folder, images, prompt, answers)
    processor = AutoProcessor.from_pretrained(folder)
    rows = answers if answers is not None else [""] * len(images)
    if kind.startswith("git"):
        begin, end = ("[CLS]", "[SEP]") if answers is not None else ("[CLS]", "")
        plain = {"add_special_tokens": False, "return_token_type_ids": False}
        texts = [f"{begin} {prompt} {row} {end}" for row in rows]
        return processor(images=images, text=texts, return_tensors="pt", padding=True, **plain)
    if processor.chat_template:
        user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
        start = processor.apply_chat_template([user], add_generation_prompt=True)
        ends = dict.fromkeys(("idefics2", "idefics3", "smolvlm"), "<end_of_utterance>")
        space, end = (" ", "</s>") if kind.startswith("llava") else ("", ends.get(kind, "<|im_end|>"))
        texts = [f"{start}{space}{row}{end}" for row in rows] if answers is not None else [start] * len(images)
        nested = [[image] for image in images]
        return processor(
            text=texts, images=nested, return_tensors="pt", padding=True, padding_side="right",
            add_special_tokens=False,
        )  # fmt: skip
    suffix = {"suffix": answers} if answers is not None else {}
    texts = [f"<image>{prompt}"] * len(images)
    return processor(text=texts, images=images, return_tensors="pt", padding=True, padding_side="right", **suffix)


def _lay_out_by_hand(folder: Path, images: list[Image.Image], prompt: str, answers: list[str] | None) -> Any:
    """As the processors of Qwen-VL, InternVL, LLaVA-OneVision and Gemma 4 do, which need torchvision."""
    pixels = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if folder.name.startswith("internvl"):
        image = f"<img>{'<IMG_CONTEXT>' * 4}</img>\n"
    elif folder.name.startswith("llava_onevision"):
        image = f"{'<image>' * (9 + 3 * 4)}\n"
    elif folder.name.startswith("gemma4"):
        image = f"<|image>{'<|image|>' * int(pixels.pop('num_soft_tokens_per_image')[0])}<image|>"
    else:
        num_tokens = int(pixels["image_grid_thw"][0].prod()) // 4
        image = f"<|vision_start|>{'<|image_pad|>' * num_tokens}<|vision_end|>"
    begin = tokenizer.bos_token if folder.name.startswith("gemma4") else ""
    start = f"{begin}<|im_start|>user\n{image}{prompt}<|im_end|>\n<|im_start|>assistant\n"
    rows = [f"{start}{row}<|im_end|>" for row in answers] if answers is not None else [start] * len(images)
    inputs = tokenizer(rows, return_tensors="pt", padding=True, padding_side="right", return_token_type_ids=False)
    if {"image_grid_thw", "image_position_ids"} & pixels.keys():
        token = "<|image|>" if folder.name.startswith("gemma4") else "<|image_pad|>"
        is_image = inputs["input_ids"] == tokenizer.convert_tokens_to_ids(token)
        inputs["mm_token_type_ids"] = is_image.to(torch.int64)
    pixels.pop("num_patches", None)  # InternVL's processor keeps it
    inputs.update(pixels)
    return inputs
