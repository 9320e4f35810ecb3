"""The config of one trial: every knob with type, bounds and unit."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medcap_core.errors import ConfigFault
from medcap_core.objective import Objective, ObjectiveField
from medcap_core.scoring.options import DEFAULT_BERTSCORE_MODEL

RESERVED_NAMES = frozenset(
    {"phantoms", "phantoms-general", "brain_phantoms", "rocov2", "rocov2-mini", "roco"}
    | {"phantom-blip", "medblip3d", "brain-gpt2"}
)
"""Names of data sets and models; a folder of the same name must be given as `./NAME`."""


def expand_home(value: str) -> Path:
    """Expand a leading `~` or `~user`; that of no known user stays as it is, where `Path.expanduser` raises."""
    return Path(os.path.expanduser(value))  # noqa: PTH111


def absolute_if_path(value: str) -> str:
    """Make an existing path absolute, because Ray changes the working directory; leave other names unchanged."""
    path = expand_home(value)
    return str(path.resolve()) if value not in RESERVED_NAMES and path.exists() else value


class FreezeMode(StrEnum):
    """Which parameters a trial trains; see `medcap_core.models.tuning` for the exact sets."""

    FULL = "full"
    ENCODER_ONLY = "encoder_only"
    DECODER_ONLY = "decoder_only"
    BRIDGE_ONLY = "bridge_only"
    PATCH_AND_BRIDGE = "patch_and_bridge"
    PATCH_AND_BRIDGE_LORA = "patch_and_bridge_lora"
    LORA = "lora"
    ZERO_SHOT = "zero_shot"


class LoraTargets(StrEnum):
    """Named sets of linear layers of the text decoder that receive LoRA factors."""

    QUERY_KEY = "query_key"
    SELF_QUERY_KEY = "self_query_key"
    QUERY_VALUE = "query_value"
    ATTENTION = "attention"
    ATTENTION_MLP = "attention_mlp"


def _knob(default: Any, description: str, *, unit: str | None = None, **bounds: Any) -> Any:
    """Build a field with its default, what it is for, its unit, and its bounds as pydantic names them."""
    return Field(default, description=description, json_schema_extra={"unit": unit} if unit else None, **bounds)


class TrialConfig(BaseModel):
    """The config of one trial; with the same config a trial gives the same scores on a CPU.

    Immutable. Values are coerced by declared type (YAML reads `1e-5` as a string); unknown keys are errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # What is trained on what
    data: str = _knob("phantoms", "Data set: a name, a Hub data set, a path or a URL.", min_length=1)
    model: str = _knob("phantom-blip", "Base model: a name, a Hub model or a path.", min_length=1)
    data_fraction: float = _knob(
        1.0, "Share of the training images; a smaller share lies within each larger one.", gt=0, le=1
    )
    max_train_images: int | None = _knob(None, "Cap on training images, after data_fraction.", unit="images", ge=1)
    max_validation_images: int | None = _knob(None, "Cap on validation images during the search.", unit="images", ge=2)
    max_test_images: int | None = _knob(None, "Cap on test images; null scores all of them.", unit="images", ge=2)
    max_bad_record_share: float = _knob(0.05, "Share of unusable records above which a run stops.", ge=0, le=1)
    image_column: str | None = _knob(None, "Column of a table's image paths; null takes the usual names.", min_length=1)
    caption_column: str | None = _knob(None, "Column of a table's captions; null takes the usual names.", min_length=1)
    drop_shared_cases: bool = _knob(False, "Leave out training images of cases that validation or test have too.")
    drop_duplicate_train_images: bool = _knob(False, "Leave out training images that validation or test hold too.")
    image_size: int | None = _knob(
        None,
        "Side of an image, or of the cube of a scan; null takes the model's own.",
        unit="pixels, of scans voxels",
        ge=16,
        le=1024,
    )
    vision_model: str | None = _knob(
        None, "Another vision tower for ViT-GPT2, or the 2D encoder of medblip3d: a Hub model or a path.", min_length=1
    )
    language_model: str | None = _knob(
        None, "Language model of medblip3d: a Hub model or a path; null takes the embedded brain-gpt2.", min_length=1
    )
    num_queries: int | None = _knob(
        None, "Query tokens of medblip3d; null takes 32, or the saved model's own.", unit="tokens", ge=1, le=256
    )
    patch_size: int | None = _knob(
        None, "Side of a 3D patch of medblip3d; null takes 32, or the saved model's own.", unit="voxels", ge=2, le=128
    )
    qformer_layers: int | None = _knob(
        None,
        "Layers of medblip3d's MedQFormer; null takes as many as the encoder has, at most 12.",
        unit="layers",
        ge=1,
        le=48,
    )
    quantization: Literal["none", "8bit", "4bit"] = _knob(
        "none", "Quantization of the frozen language model of BLIP-2, InstructBLIP and vision-language models."
    )
    weights_dtype: Literal["auto", "fp32", "bf16"] = _knob(
        "auto", "Type of frozen weights of models of billions of weights; auto is bf16 where precision is."
    )

    cache_features: bool = _knob(
        True, "Compute the output of a frozen encoder once for each image and keep it on disk."
    )
    max_feature_cache_gb: float = _knob(
        100.0, "Disk space of all cached features together.", unit="GB, 1e9 bytes", ge=0
    )

    # Which parameters are trained
    freeze: FreezeMode = _knob(FreezeMode.LORA, "Parameters that are trained; all others are frozen.")
    lora_rank: int = _knob(8, "Rank of the LoRA factors.", ge=1, le=512)
    lora_alpha: float | None = _knob(
        None, "Numerator of the LoRA scale lora_alpha / lora_rank; null takes 2 x lora_rank.", gt=0
    )
    lora_dropout: float = _knob(0.0, "Dropout probability on the input of the LoRA factors.", ge=0, lt=1)
    lora_targets: LoraTargets = _knob(
        LoraTargets.QUERY_KEY,
        "Linear layers of the text decoder that receive LoRA factors; self_query_key leaves out cross-attention.",
    )
    lora_vision: bool = _knob(False, "Put LoRA factors on the vision tower's attention too.")
    use_dora: bool = _knob(False, "Train the magnitude of each adapted weight beside its factors (DoRA).")
    use_rslora: bool = _knob(False, "Scale the LoRA factors by lora_alpha / sqrt(lora_rank) (rank-stabilised LoRA).")

    # Optimisation
    learning_rate: float = _knob(1e-4, "Peak learning rate of AdamW.", gt=0, le=1)
    num_epochs: int = _knob(4, "Passes over the training split.", unit="epochs", ge=1, le=1000)
    patience: int | None = _knob(
        None,
        "Epochs in a row without a better score after which a trial ends; null trains to the end.",
        unit="epochs",
        ge=1,
    )
    batch_size: int = _knob(
        16,
        "Images of one optimizer step, over all workers; a multiple of accumulation_steps.",
        unit="images",
        ge=1,
        le=65536,
    )
    accumulation_steps: int = _knob(1, "Micro-batches that one batch is split into.", unit="micro-batches", ge=1)
    weight_decay: float = _knob(0.05, "Weight decay of AdamW, not applied to biases and norms.", ge=0, le=1)
    schedule: Literal["linear", "cosine"] = _knob(
        "linear", "Decay of the learning rate after the warm-up, to zero or min_learning_rate."
    )
    warmup_fraction: float = _knob(0.0, "Share of all steps over which the learning rate rises from zero.", ge=0, lt=1)
    min_learning_rate: float = _knob(0.0, "Rate that schedule cosine ends at; at most learning_rate.", ge=0, le=1)
    vision_learning_rate: float = _knob(1.0, "Rate of the vision tower, as a factor of learning_rate.", gt=0, le=10)
    max_grad_norm: Literal["none"] | Annotated[float, Field(gt=0)] = _knob(
        1.0, "Norm that gradients are clipped to; none clips nothing."
    )
    label_smoothing: float = _knob(
        0.1, "Label smoothing of the loss over tokens; BLIP was trained with 0.1.", ge=0, lt=1
    )
    contrastive_weight: float = _knob(
        1.0, "Weight of medblip3d's contrastive losses beside its loss over tokens.", ge=0
    )
    gradient_checkpointing: bool = _knob(
        False,
        "Compute activations again in the backward pass, for less memory; for BLIP-2, InstructBLIP and "
        "vision-language models.",
    )
    parallel: Literal["ddp", "fsdp"] = _knob(
        "ddp",
        "What each of several workers holds: the whole model (ddp), or a shard of its weights, gradients "
        "and optimizer state (fsdp).",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _knob(
        "auto", "Precision of training and generation; auto is bf16 on CUDA and fp32 on a CPU."
    )

    # Captions
    prompt: str = _knob(
        "",
        "Text that every caption begins with, masked in the labels and cut from predictions; "
        "for InstructBLIP, BLIP-2 with FLAN-T5 and vision-language models an instruction.",
        max_length=2000,
    )
    max_caption_tokens: int = _knob(
        64,
        "Length that training captions are cut to, prompt included unless it is an instruction.",
        unit="tokens",
        ge=4,
        le=512,
    )

    # Augmentation, in training only; no flips (side is a fact) and no crops (the finding may be at the border)
    augment: bool = _knob(False, "Rotate training images and change their brightness at random.")
    max_rotation_degrees: float = _knob(5.0, "Largest rotation of an augmented image.", unit="degrees", ge=0, le=15)
    max_brightness_change: float = _knob(
        0.1, "Largest relative change of brightness of an augmented image.", ge=0, le=0.3
    )

    # Generation
    num_beams: int = _knob(3, "Beams of beam search; 1 is greedy.", unit="beams", ge=1, le=16)
    max_new_tokens: int = _knob(48, "Longest generated caption.", unit="tokens", ge=4, le=512)
    min_new_tokens: int = _knob(0, "Shortest generated caption; at most max_new_tokens.", unit="tokens", ge=0, le=256)
    length_penalty: float = _knob(
        1.0, "Exponent of the length that a beam's log-probability is divided by.", ge=-5, le=5
    )
    early_stopping: bool = _knob(
        False,
        "End the beam search of an image at its first num_beams finished captions; false goes on while a "
        "better one may come.",
    )
    repetition_penalty: float = _knob(1.0, "Divisor of the logits of tokens already generated; 1 is none.", ge=1, le=5)
    rejoin_wordpieces: bool = _knob(
        True,
        "Write generated 'x - ray' and '3. 5 cm' as 'x-ray' and '3.5 cm', for models with BERT's tokenizer "
        "(BLIP); false for comparison with published figures.",
    )
    eval_batch_size: int = _knob(
        32,
        "Images of a generation batch on each worker; small models on a CPU take four batches at once.",
        unit="images",
        ge=1,
        le=4096,
    )

    objective: ObjectiveField = Field(
        Objective(),
        description="What a trial is ranked by on validation, at its best epoch.",
        json_schema_extra={"default": "CIDEr"},
    )
    bertscore_model: str = _knob(DEFAULT_BERTSCORE_MODEL, "Encoder of BERTScore: a Hub model or a path.", min_length=1)
    bertscore_idf: bool = _knob(False, "Weigh the tokens of BERTScore by their rarity in the references.")
    evaluate: Literal["best", "last"] = _knob(
        "best", "Epoch that gives a trial its score and its model: the best on validation, or the last."
    )
    checkpoint_every_epoch: bool = _knob(
        False, "Keep model and optimizer of every epoch, in `checkpoints/epochs/` of each trial."
    )
    seed: int = _knob(
        0, "Seed of new parameters, of the order of images, of augmentation and of dropout.", ge=0, lt=2**31
    )

    @field_validator("data", "model", "vision_model", "language_model", "bertscore_model")
    @classmethod
    def _resolve_path(cls, value: str | None) -> str | None:
        return None if value is None else absolute_if_path(value)

    @model_validator(mode="after")
    def _check_across_fields(self) -> Self:
        lowest, is_quantized = f"min_learning_rate {self.min_learning_rate:g}", self.quantization != "none"
        rules = {
            f"batch_size {self.batch_size} must be a multiple of accumulation_steps {self.accumulation_steps}": (
                self.batch_size % self.accumulation_steps
            ),
            f"{lowest} must not exceed learning_rate {self.learning_rate:g}": (
                self.min_learning_rate > self.learning_rate
            ),
            f"{lowest} is of schedule cosine, but schedule is {self.schedule}; change one": (
                self.min_learning_rate and self.schedule != "cosine"
            ),
            f"min_new_tokens {self.min_new_tokens} must not exceed max_new_tokens {self.max_new_tokens}": (
                self.min_new_tokens > self.max_new_tokens
            ),
            f"freeze {self.freeze} trains weights that quantization {self.quantization} makes untrainable; use "
            "freeze: lora (or bridge_only), or quantization: none": (
                is_quantized and self.freeze in (FreezeMode.FULL, FreezeMode.DECODER_ONLY)
            ),
            f"parallel fsdp shards no weights of quantization {self.quantization}; use parallel: ddp, or "
            "quantization: none": is_quantized and self.parallel == "fsdp",
            f"weights_dtype bf16 needs precision bf16 or auto, but precision is {self.precision}; change one": (
                self.weights_dtype == "bf16" and self.precision in ("fp32", "fp16")
            ),
        }
        if any(rules.values()):
            raise ValueError("; ".join(sentence for sentence, is_broken in rules.items() if is_broken))
        return self

    @property
    def resolved_lora_alpha(self) -> float:
        """LoRA scale numerator: as given, else twice the rank."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha


def build_trial_config(values: dict[str, Any], where: str) -> TrialConfig:
    """Build a config from `values`; `where` names their file or flag. Raises ConfigFault with all faults."""
    try:
        return TrialConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigFault(describe_validation_error(error, where)) from None


def describe_validation_error(error: ValidationError, where: str) -> list[str]:
    """Write one sentence for each fault pydantic found: file, key, value and remedy."""
    faults = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            faults.append(f"{where}: unknown key '{key}'; remove it or correct its spelling.")
        elif key:
            faults.append(f"{where}: {key}: {message}, but it is {item['input']!r}.")
        else:
            faults.append(f"{where}: {message}.")
    return faults
