"""The config of one trial: every knob with type, bounds and unit."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from medcap_core.errors import ConfigFault
from medcap_core.objective import Objective, ObjectiveField
from medcap_core.scoring.options import DEFAULT_BERTSCORE_MODEL

RESERVED_NAMES = frozenset(
    {
        "phantoms",
        "phantoms-general",
        "brain_phantoms",
        "rocov2",
        "rocov2-mini",
        "roco",
        "phantom-blip",
        "medblip3d",
        "brain-gpt2",
    }
)
"""Names of data sets and models; a folder of the same name must be given as `./NAME`."""


def absolute_if_path(value: str) -> str:
    """Make an existing path absolute, because Ray changes the working directory; leave other names unchanged."""
    path = Path(value).expanduser()
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


def _unit(name: str) -> dict[str, JsonValue]:
    """Return the schema entry that states the unit of a field."""
    return {"unit": name}


_TRAIN_THE_LANGUAGE_MODEL = (FreezeMode.FULL, FreezeMode.DECODER_ONLY)


class TrialConfig(BaseModel):
    """The config of one trial; with the same config a trial gives the same scores on a CPU.

    Immutable. Values are coerced by declared type (YAML reads `1e-5` as a string); unknown keys are errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # What is trained on what
    data: str = Field("phantoms", min_length=1, description="Data set: a name, a Hub data set, a path or a URL.")
    model: str = Field("phantom-blip", min_length=1, description="Base model: a name, a Hub model or a path.")
    data_fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the training images; a smaller share lies within each larger one."
    )
    max_train_images: int | None = Field(
        None, ge=1, description="Cap on training images, after data_fraction.", json_schema_extra=_unit("images")
    )
    max_validation_images: int | None = Field(
        None, ge=2, description="Cap on validation images during the search.", json_schema_extra=_unit("images")
    )
    max_test_images: int | None = Field(
        None, ge=2, description="Cap on test images; null scores all of them.", json_schema_extra=_unit("images")
    )
    max_bad_record_share: float = Field(
        0.05, ge=0, le=1, description="Share of unusable records above which a run stops."
    )
    image_column: str | None = Field(
        None, min_length=1, description="Column of a table's image paths; null takes the usual names."
    )
    caption_column: str | None = Field(
        None, min_length=1, description="Column of a table's captions; null takes the usual names."
    )
    drop_shared_cases: bool = Field(
        False, description="Leave out training images of cases that validation or test have too."
    )
    drop_duplicate_train_images: bool = Field(
        False, description="Leave out training images that validation or test hold too."
    )
    image_size: int | None = Field(
        None,
        ge=16,
        le=1024,
        description="Side of an image, or of the cube of a scan; null takes the model's own.",
        json_schema_extra=_unit("pixels, of scans voxels"),
    )
    vision_model: str | None = Field(
        None,
        min_length=1,
        description="Another vision tower for ViT-GPT2, or the 2D encoder of medblip3d: a Hub model or a path.",
    )
    language_model: str | None = Field(
        None,
        min_length=1,
        description="Language model of medblip3d: a Hub model or a path; null takes the embedded brain-gpt2.",
    )
    num_queries: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Query tokens of medblip3d; null takes 32, or the saved model's own.",
        json_schema_extra=_unit("tokens"),
    )
    patch_size: int | None = Field(
        None,
        ge=2,
        le=128,
        description="Side of a 3D patch of medblip3d; null takes 32, or the saved model's own.",
        json_schema_extra=_unit("voxels"),
    )
    qformer_layers: int | None = Field(
        None,
        ge=1,
        le=48,
        description="Layers of medblip3d's MedQFormer; null takes as many as the encoder has, at most 12.",
        json_schema_extra=_unit("layers"),
    )
    quantization: Literal["none", "8bit", "4bit"] = Field(
        "none",
        description="Quantization of the frozen language model of BLIP-2, InstructBLIP and vision-language models, on "
        "CUDA.",
    )
    weights_dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Type of frozen weights of models of billions of weights; auto is bf16 where precision is.",
    )

    cache_features: bool = Field(
        True, description="Compute the output of a frozen encoder once for each image and keep it on disk."
    )
    max_feature_cache_gb: float = Field(
        100.0, ge=0, description="Disk space of all cached features together.", json_schema_extra=_unit("GB, 1e9 bytes")
    )

    # Which parameters are trained
    freeze: FreezeMode = Field(FreezeMode.LORA, description="Parameters that are trained; all others are frozen.")
    lora_rank: int = Field(8, ge=1, le=512, description="Rank of the LoRA factors.")
    lora_alpha: float | None = Field(
        None, gt=0, description="Numerator of the LoRA scale lora_alpha / lora_rank; null takes 2 x lora_rank."
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout probability on the input of the LoRA factors.")
    lora_targets: LoraTargets = Field(
        LoraTargets.QUERY_KEY,
        description="Linear layers of the text decoder that receive LoRA factors; self_query_key leaves out "
        "cross-attention.",
    )
    lora_vision: bool = Field(False, description="Put LoRA factors on the vision tower's attention too.")
    use_dora: bool = Field(False, description="Train the magnitude of each adapted weight beside its factors (DoRA).")
    use_rslora: bool = Field(
        False, description="Scale the LoRA factors by lora_alpha / sqrt(lora_rank) (rank-stabilised LoRA)."
    )

    # Optimisation
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Peak learning rate of AdamW.")
    num_epochs: int = Field(
        4, ge=1, le=1000, description="Passes over the training split.", json_schema_extra=_unit("epochs")
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Epochs in a row without a better score after which a trial ends; null trains to the end.",
        json_schema_extra=_unit("epochs"),
    )
    batch_size: int = Field(
        16,
        ge=1,
        le=65536,
        description="Images of one optimizer step, over all workers; a multiple of accumulation_steps.",
        json_schema_extra=_unit("images"),
    )
    accumulation_steps: int = Field(
        1, ge=1, description="Micro-batches that one batch is split into.", json_schema_extra=_unit("micro-batches")
    )
    weight_decay: float = Field(0.05, ge=0, le=1, description="Weight decay of AdamW, not applied to biases and norms.")
    schedule: Literal["linear", "cosine"] = Field(
        "linear", description="Decay of the learning rate after the warm-up, to zero or min_learning_rate."
    )
    warmup_fraction: float = Field(
        0.0, ge=0, lt=1, description="Share of all steps over which the learning rate rises from zero."
    )
    min_learning_rate: float = Field(
        0.0, ge=0, le=1, description="Rate that schedule cosine ends at; at most learning_rate."
    )
    vision_learning_rate: float = Field(
        1.0, gt=0, le=10, description="Rate of the vision tower, as a factor of learning_rate."
    )
    max_grad_norm: Literal["none"] | Annotated[float, Field(gt=0)] = Field(
        1.0, description="Norm that gradients are clipped to; none clips nothing."
    )
    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="Label smoothing of the loss over tokens; BLIP was trained with 0.1."
    )
    contrastive_weight: float = Field(
        1.0, ge=0, description="Weight of medblip3d's contrastive losses beside its loss over tokens."
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute activations again in the backward pass, for less memory; for BLIP-2, InstructBLIP and "
        "vision-language models.",
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="What each of several workers holds: the whole model (ddp), or a shard of its weights, gradients "
        "and optimizer state (fsdp).",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Precision of training and generation; auto is bf16 on CUDA and fp32 on a CPU."
    )

    # Captions
    prompt: str = Field(
        "",
        max_length=2000,
        description="Text that every caption begins with, masked in the labels and cut from predictions; "
        "for InstructBLIP, BLIP-2 with FLAN-T5 and vision-language models an instruction.",
    )
    max_caption_tokens: int = Field(
        64,
        ge=4,
        le=512,
        description="Length that training captions are cut to, prompt included unless it is an instruction.",
        json_schema_extra=_unit("tokens"),
    )

    # Augmentation, in training only; no flips (side is a fact) and no crops (the finding may be at the border)
    augment: bool = Field(False, description="Rotate training images and change their brightness at random.")
    max_rotation_degrees: float = Field(
        5.0, ge=0, le=15, description="Largest rotation of an augmented image.", json_schema_extra=_unit("degrees")
    )
    max_brightness_change: float = Field(
        0.1, ge=0, le=0.3, description="Largest relative change of brightness of an augmented image."
    )

    # Generation
    num_beams: int = Field(
        3, ge=1, le=16, description="Beams of beam search; 1 is greedy.", json_schema_extra=_unit("beams")
    )
    max_new_tokens: int = Field(
        48, ge=4, le=512, description="Longest generated caption.", json_schema_extra=_unit("tokens")
    )
    min_new_tokens: int = Field(
        0,
        ge=0,
        le=256,
        description="Shortest generated caption; at most max_new_tokens.",
        json_schema_extra=_unit("tokens"),
    )
    length_penalty: float = Field(
        1.0, ge=-5, le=5, description="Exponent of the length that a beam's log-probability is divided by."
    )
    early_stopping: bool = Field(
        False,
        description="End the beam search of an image at its first num_beams finished captions; false goes on while a "
        "better one may come.",
    )
    repetition_penalty: float = Field(
        1.0, ge=1, le=5, description="Divisor of the logits of tokens already generated; 1 is none."
    )
    rejoin_wordpieces: bool = Field(
        True,
        description="Write generated 'x - ray' and '3. 5 cm' as 'x-ray' and '3.5 cm', for models with BERT's tokenizer "
        "(BLIP); false for comparison with published figures.",
    )
    eval_batch_size: int = Field(
        32,
        ge=1,
        le=4096,
        description="Images of a generation batch on each worker; small models on a CPU take four batches at once.",
        json_schema_extra=_unit("images"),
    )

    objective: ObjectiveField = Field(
        Objective(),
        description="What a trial is ranked by on validation, at its best epoch.",
        json_schema_extra={"default": "CIDEr"},
    )
    bertscore_model: str = Field(
        DEFAULT_BERTSCORE_MODEL, min_length=1, description="Encoder of BERTScore: a Hub model or a path."
    )
    bertscore_idf: bool = Field(False, description="Weigh the tokens of BERTScore by their rarity in the references.")
    evaluate: Literal["best", "last"] = Field(
        "best", description="Epoch that gives a trial its score and its model: the best on validation, or the last."
    )
    checkpoint_every_epoch: bool = Field(
        False, description="Keep model and optimizer of every epoch, in `checkpoints/epochs/` of each trial."
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of new parameters, of the order of images, of augmentation and of dropout."
    )

    @field_validator("data", "model", "vision_model", "language_model", "bertscore_model")
    @classmethod
    def _resolve_path(cls, value: str | None) -> str | None:
        return None if value is None else absolute_if_path(value)

    @model_validator(mode="after")
    def _check_across_fields(self) -> Self:
        faults = []
        if self.batch_size % self.accumulation_steps:
            faults.append(
                f"batch_size {self.batch_size} must be a multiple of accumulation_steps {self.accumulation_steps}"
            )
        if self.min_learning_rate > self.learning_rate:
            faults.append(
                f"min_learning_rate {self.min_learning_rate:g} must not exceed learning_rate {self.learning_rate:g}"
            )
        if self.min_learning_rate and self.schedule != "cosine":
            faults.append(
                f"min_learning_rate {self.min_learning_rate:g} is of schedule cosine, but schedule is {self.schedule}; "
                "change one"
            )
        if self.min_new_tokens > self.max_new_tokens:
            faults.append(f"min_new_tokens {self.min_new_tokens} must not exceed max_new_tokens {self.max_new_tokens}")
        if self.quantization != "none" and self.freeze in _TRAIN_THE_LANGUAGE_MODEL:
            faults.append(
                f"freeze {self.freeze} trains weights that quantization {self.quantization} makes untrainable; use "
                "freeze: lora (or bridge_only), or quantization: none"
            )
        if self.quantization != "none" and self.parallel == "fsdp":
            faults.append(
                f"parallel fsdp shards no weights of quantization {self.quantization}; use parallel: ddp, or "
                "quantization: none"
            )
        if self.weights_dtype == "bf16" and self.precision in ("fp32", "fp16"):
            faults.append(
                f"weights_dtype bf16 needs precision bf16 or auto, but precision is {self.precision}; change one"
            )
        if faults:
            raise ValueError("; ".join(faults))
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
