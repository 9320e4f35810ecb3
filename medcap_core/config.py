"""The config of one trial: every knob with type, bounds and unit."""

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medcap_core.errors import ConfigFault
from medcap_core.objective import Metric

RESERVED_NAMES = frozenset(
    {"phantoms", "phantoms-general", "brain_phantoms", "rocov2", "roco", "phantom-blip", "medblip3d", "brain-gpt2"}
)
"""Names of data sets and models; a folder of the same name must be given as `./NAME`."""


def absolute_if_path(value: str) -> str:
    """Make an existing path absolute, because Ray changes the working directory; other names are unchanged."""
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
    QUERY_VALUE = "query_value"
    ATTENTION = "attention"
    ATTENTION_MLP = "attention_mlp"


_TRAIN_THE_LANGUAGE_MODEL = (FreezeMode.FULL, FreezeMode.DECODER_ONLY)


class TrialConfig(BaseModel):
    """The config of one trial; with the same config a trial gives the same scores on a CPU.

    Immutable. Values are coerced by declared type (YAML reads `1e-5` as a string); unknown keys are errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # What is trained on what
    data: str = Field("phantoms", min_length=1, description="data set: a name, a Hub data set or a path")
    model: str = Field("phantom-blip", min_length=1, description="base model: a name, a Hub model or a path")
    data_fraction: float = Field(1.0, gt=0, le=1, description="share of the training split, drawn by seed")
    max_train_images: int | None = Field(None, ge=1, description="cap on training images, after data_fraction")
    max_validation_images: int | None = Field(None, ge=2, description="cap on validation images during the search")
    max_test_images: int | None = Field(None, ge=2, description="cap on test images; None scores all of them")
    max_bad_record_share: float = Field(0.05, ge=0, le=1, description="share of unusable records that stops a run")
    drop_duplicate_train_images: bool = Field(
        False, description="leave out train images that validation or test hold too"
    )
    image_size: int | None = Field(None, ge=16, le=1024, description="pixels a side; None takes the model's own")
    vision_model: str | None = Field(
        None,
        min_length=1,
        description="another vision tower for ViT-GPT2, or the 2D encoder of medblip3d: a Hub model or a path",
    )
    language_model: str | None = Field(
        None, min_length=1, description="of medblip3d: a Hub model or a path; None takes the embedded brain-gpt2"
    )
    num_queries: int | None = Field(None, ge=1, le=256, description="of medblip3d; None: 32, or the saved model's own")
    patch_size: int | None = Field(
        None, ge=2, le=128, description="of medblip3d, voxels a side; None: 32, or the saved model's own"
    )
    qformer_layers: int | None = Field(
        None, ge=1, le=48, description="of medblip3d's MedQFormer; None: as many as the encoder has, at most 12"
    )
    quantization: Literal["none", "8bit", "4bit"] = Field(
        "none", description="of the frozen language model of BLIP-2 and InstructBLIP, on CUDA, by bitsandbytes"
    )
    weights_dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of frozen weights of BLIP-2 and InstructBLIP; auto: as precision if that is bf16"
    )

    cache_features: bool = Field(True, description="where the encoder is frozen, compute its output once an image")
    max_feature_cache_gb: float = Field(100.0, ge=0, description="disk that all cached features may take, 1e9 bytes")

    # Which parameters are trained
    freeze: FreezeMode = FreezeMode.LORA
    lora_rank: int = Field(8, ge=1, le=512)
    lora_alpha: float | None = Field(None, gt=0, description="LoRA scale numerator; None means 2 x lora_rank")
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    lora_targets: LoraTargets = LoraTargets.QUERY_KEY
    lora_vision: bool = Field(False, description="LoRA also on the vision tower's attention")

    # Optimisation
    learning_rate: float = Field(1e-4, gt=0, le=1)
    num_epochs: int = Field(4, ge=1, le=1000)
    batch_size: int = Field(16, ge=1, le=65536, description="images per optimizer step, over all workers")
    accumulation_steps: int = Field(1, ge=1, description="micro-batches that one batch_size is split into")
    weight_decay: float = Field(0.05, ge=0, le=1, description="not applied to biases and norms")
    schedule: Literal["linear", "cosine"] = "linear"
    warmup_fraction: float = Field(0.0, ge=0, lt=1, description="share of all steps with rising learning rate")
    max_grad_norm: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="0.1 is what BLIP was trained with")
    contrastive_weight: float = Field(1.0, ge=0, description="of medblip3d's contrastive losses, beside the token loss")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="auto: bf16 on CUDA, fp32 on CPU")

    # Captions
    prompt: str = Field(
        "",
        description="text every caption begins with; masked in the labels, cut from predictions. To InstructBLIP, and "
        "to BLIP-2 with FLAN-T5, an instruction",
    )
    max_caption_tokens: int = Field(64, ge=4, le=512, description="longer training captions are cut, prompt included")

    # Augmentation, in training only; no flips (side is a fact) and no crops (the finding may be at the border)
    augment: bool = False
    max_rotation_degrees: float = Field(5.0, ge=0, le=15)
    max_brightness_change: float = Field(0.1, ge=0, le=0.3, description="relative")

    # Generation
    num_beams: int = Field(3, ge=1, le=16)
    max_new_tokens: int = Field(48, ge=4, le=512)
    min_new_tokens: int = Field(0, ge=0, le=256)
    length_penalty: float = Field(1.0, ge=-5, le=5)
    repetition_penalty: float = Field(1.0, ge=1, le=5)
    eval_batch_size: int = Field(
        32, ge=1, le=4096, description="images per generation batch and worker; small models on a CPU take four at once"
    )

    metric: Metric = Field("cider", description="what a trial is scored by on validation; best epoch, maximised")
    seed: int = Field(0, ge=0, lt=2**31)

    @field_validator("data", "model", "vision_model", "language_model")
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
        if self.min_new_tokens > self.max_new_tokens:
            faults.append(f"min_new_tokens {self.min_new_tokens} must not exceed max_new_tokens {self.max_new_tokens}")
        if self.quantization != "none" and self.freeze in _TRAIN_THE_LANGUAGE_MODEL:
            faults.append(
                f"freeze {self.freeze} trains weights that quantization {self.quantization} makes untrainable; use "
                "freeze: lora (or bridge_only), or quantization: none"
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
    """Write one sentence for each of pydantic's errors: file, key, value and remedy."""
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
