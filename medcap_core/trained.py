"""A trained captioner from what a trial keeps on disk, and its export in Hub format."""

from functools import lru_cache
from pathlib import Path

from medcap_core.checkpoint import load_weights
from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.device import current_device
from medcap_core.models import Captioner, load_captioner
from medcap_core.tuning import apply_tuning, merge_tuning

TRIAL_CONFIG_FILE = "trial_config.json"


def build_trained_captioner(config: TrialConfig, weights: Path | None) -> Captioner:
    """The base model of `config` with the trained `weights` in it, LoRA merged, on the CPU; None leaves it zero-shot.

    Raises RunFault where the weights do not fit the config.
    """
    captioner = load_captioner(config.model, config.image_size)
    captioner.check(config)
    if weights is not None and config.freeze is not FreezeMode.ZERO_SHOT:
        summary = apply_tuning(captioner, config)
        load_weights(captioner, weights)
        merge_tuning(captioner, summary)
    captioner.eval()
    return captioner


@lru_cache(maxsize=1)
def load_trained_captioner(config: TrialConfig, weights: Path | None) -> Captioner:
    """The same on this process's device, kept for the next call with the same arguments."""
    return build_trained_captioner(config, weights).to(current_device())


def export_captioner(config: TrialConfig, weights: Path | None, directory: Path) -> None:
    """Write the trained model so that plain `from_pretrained` of transformers loads it, with its processor.

    The caption length and beams of `config` are saved as the model's `generation_config`, the whole config beside it in
    `trial_config.json`.
    """
    captioner = build_trained_captioner(config, weights)
    captioner.set_generation_defaults(config)
    captioner.save(directory)
    (directory / TRIAL_CONFIG_FILE).write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
