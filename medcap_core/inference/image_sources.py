"""The images of a split: pixels, or the output of a frozen encoder, computed once for all trials."""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.batches import ImageSource, PixelSource, Positions
from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.stores.features import FeatureStore, features_folder, measure_stored_bytes
from medcap_core.models import Captioner
from medcap_core.models.tuning import encoder_is_frozen, features_are_fixed
from medcap_core.runtime.cache import format_size, guard_cache_writes
from medcap_core.runtime.device import autocast, choose_precision
from medcap_core.runtime.progress import Progress
from medcap_core.runtime.transfer import DEVICE_LOCK, move

log = logging.getLogger(__name__)

NUM_CHECKED_ROWS = 8
"""Images encoded again to verify stored features before use."""
_LARGEST_DIFFERENCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference between stored and fresh features of an image: RMS of the difference / RMS of the features. Above
the rounding of another device, far below the difference of two images."""
_SHARE_OF_FREE_MEMORY = 0.3
"""Share of an accelerator's free memory up to which features are kept there."""
_SPARE_DISK_BYTES = 2**30


def open_images(
    captioner: Captioner,
    split: PreparedSplit,
    config: TrialConfig,
    *,
    augmented: bool = False,
    progress: Progress | None = None,
) -> ImageSource:
    """Open the images of a split for a captioner on its device, from the cheapest source.

    With a frozen encoder these are its hidden states, encoded now where they are not stored yet. They are pixels if the
    encoder or a projector in its features is trained, images are augmented, `cache_features` is off, the features
    exceed `max_feature_cache_gb` or the disk, or reading them is slower than encoding; also for the unused train split
    of a zero-shot trial. With a trained encoder, features of other trials are removed from the accelerator's memory.
    """
    pixels = PixelSource(split)
    if not encoder_is_frozen(config):
        _resident.clear()
        return pixels
    if not features_are_fixed(captioner, config):
        log.info("freeze %s trains the projector, so images are encoded at each use", config.freeze)
        return pixels
    if augmented or not config.cache_features or (config.freeze is FreezeMode.ZERO_SHOT and split.split == "train"):
        return pixels
    encoder, rows, what = FrozenEncoder(captioner, config), split.rows, f"encoding {split.split} images once"
    store = FeatureStore(split.store, encoder.hash, encoder.measure_output(split), encoder.precision)
    if not _fits(store, rows, config, what):
        return pixels

    def encode_missing() -> None:
        store.ensure(rows, encoder.encode, config.eval_batch_size, progress, what, encoder.device)

    encode_missing()
    key = (store.folder, encoder.device)
    if key not in _is_usable:
        if not (are_right := _agree(store, rows, encoder)):
            log.warning(
                "%s: stored features do not belong to these images and this encoder; encoding anew", store.folder
            )
            store.discard()
            encode_missing()
            if not (are_right := _agree(store, rows, encoder)):
                log.warning("%s: the encoder gives other features each time; they are not stored", store.folder)
        _is_usable[key] = are_right and _is_worth_reading(store, rows, encoder, config.eval_batch_size)
    if not _is_usable[key]:
        return pixels
    log.info(
        "images of %d pixels a side are encoded once, to %d x %d numbers", captioner.geometry.size, *store.token_shape
    )
    return FeatureSource(store, rows, encoder.device)


_is_usable: dict[tuple[Path, torch.device], bool] = {}
"""Whether the features of a store are correct and faster to read than to encode on a device, once in a process."""


class FrozenEncoder:
    """The encoder of a captioner, in eval mode and in the precision of the trial."""

    def __init__(self, captioner: Captioner, config: TrialConfig) -> None:
        self.captioner = captioner
        self.cache = captioner.encoder_cache
        self.device = next(captioner.parameters()).device
        self.precision = choose_precision(config, self.device)

    @property
    def hash(self) -> str:
        """SHA-256 of weights, settings and pixel normalisation of the encoder."""
        if self.cache.hash is None:
            self.cache.hash = hash_encoder(self.captioner)
        return self.cache.hash

    def measure_output(self, split: PreparedSplit) -> tuple[int, int]:
        """Measure (tokens, width) of one image's hidden states."""
        if self.cache.token_shape is None:
            _, num_tokens, width = self.encode(split.pixels(np.arange(1))).shape
            self.cache.token_shape = (num_tokens, width)
        return self.cache.token_shape

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Encode uint8 pixels (B, 3, S, S) to hidden states (B, tokens, width)."""
        self.captioner.encoder.eval()
        with autocast(self.device, self.precision):
            return self.captioner.encode_images(torch.from_numpy(pixels).to(self.device))


class FeatureSource:
    """Hidden states of a split's images, from the accelerator's memory where they fit, else from the disk."""

    encoded = True

    def __init__(self, store: FeatureStore, rows: NDArray[np.int64], device: torch.device) -> None:
        self.store, self.rows, self.device = store, rows, device
        self.resident = _load_resident(store, rows, device)

    def __len__(self) -> int:
        return len(self.rows)

    def fetch(self, positions: Positions) -> Tensor:
        """Return hidden states (B, tokens, width) in the precision of the trial."""
        if self.resident is None:
            return self.store.features(self.rows[positions])
        indices = move(torch.from_numpy(positions), self.device)
        with DEVICE_LOCK:
            return self.resident[indices]


def estimate_encoding_seconds(images: ImageSource) -> float:
    """Estimate the time of encoding these images once, where their stored features spare it; 0 for pixels."""
    return images.store.estimate_seconds(len(images)) if isinstance(images, FeatureSource) else 0.0


def hash_encoder(captioner: Captioner) -> str:
    """Compute the SHA-256 of all that the encoder's output depends on: weights, config, pixel normalisation."""
    digest = hashlib.sha256(f"{captioner.family}\n{captioner.describe_encoding()}".encode())
    weights = [item for module in captioner.list_encoding_modules() for item in sorted(module.state_dict().items())]
    normalisation = {"pixel_scale": captioner.pixel_scale, "pixel_shift": captioner.pixel_shift}
    for name, tensor in [*weights, *normalisation.items()]:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fits(store: FeatureStore, rows: NDArray[np.int64], config: TrialConfig, what: str) -> bool:
    """Check that the missing rows can be stored; otherwise logs a warning with the remedy."""
    needed_bytes = store.missing(rows).size * store.row_bytes
    if not needed_bytes:
        return True
    folder = features_folder()
    with guard_cache_writes(folder):
        folder.mkdir(parents=True, exist_ok=True)
    allowed_bytes = config.max_feature_cache_gb * 1e9 - measure_stored_bytes()
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes <= min(allowed_bytes, free_bytes - _SPARE_DISK_BYTES):
        return True
    log.warning(
        "%s needs %s; %s are left of max_feature_cache_gb %g and %s are free in %s: images are encoded "
        "at every use instead. Raise the bound, delete old folders there, or set MEDCAP_CACHE to another disk.",
        what.capitalize(), format_size(needed_bytes), format_size(max(allowed_bytes, 0)), config.max_feature_cache_gb,
        format_size(free_bytes), folder,
    )  # fmt: skip
    return False


def _agree(store: FeatureStore, rows: NDArray[np.int64], encoder: FrozenEncoder) -> bool:
    some = _choose(rows, NUM_CHECKED_ROWS)
    fresh = encoder.encode(store.images.pixels(some)).cpu().float()
    stored = store.features(some).float()
    difference = (stored - fresh).square().mean((1, 2)).sqrt()
    return bool((difference <= _LARGEST_DIFFERENCE[store.dtype] * fresh.square().mean((1, 2)).sqrt()).all())


def _is_worth_reading(store: FeatureStore, rows: NDArray[np.int64], encoder: FrozenEncoder, batch_size: int) -> bool:
    """Check whether a batch is faster to read from the disk than to encode; always true on a CPU."""
    if encoder.device.type == "cpu":
        return True
    some = _choose(rows, batch_size)
    pixels = store.images.pixels(some)

    def measure(call: Callable[[], Tensor]) -> float:
        for _ in range(2):  # the first time kernels are loaded and the map is opened
            torch.accelerator.synchronize()
            started = time.perf_counter()
            call()
            torch.accelerator.synchronize()
        return time.perf_counter() - started

    encoding = measure(lambda: encoder.encode(pixels))
    reading = measure(lambda: store.features(some).to(encoder.device))
    log.info("%d images: %.4f s to encode, %.4f s to read", len(some), encoding, reading)
    return reading < encoding or _fit_into_memory(store, rows, encoder.device)


def _choose(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Draw some of `rows`, different ones in each process."""
    return np.sort(np.random.default_rng().permutation(rows)[:most])


def _fit_into_memory(store: FeatureStore, rows: NDArray[np.int64], device: torch.device) -> bool:
    free_bytes = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    return len(rows) * store.row_bytes <= _SHARE_OF_FREE_MEMORY * free_bytes


_resident: dict[tuple[str, str, bytes, torch.device], Tensor] = {}
_MOST_RESIDENT = 4
_LOADED_AT_ONCE = 256


def _load_resident(store: FeatureStore, rows: NDArray[np.int64], device: torch.device) -> Tensor | None:
    """Load the features to the accelerator, once in a process for all its trials; None where they do not fit.

    Only one encoder's features are kept, so that a sweep over several models does not fill the memory.
    """
    key = (store.encoder_hash, store.key, rows.tobytes(), device)
    if key in _resident:
        return _resident[key]
    for other in [other for other in _resident if other[0] != store.encoder_hash]:
        del _resident[other]
    if not _fit_into_memory(store, rows, device):
        return None
    while len(_resident) >= _MOST_RESIDENT:
        del _resident[next(iter(_resident))]
    try:
        features = torch.empty((len(rows), *store.token_shape), dtype=store.dtype, device=device)
    except torch.OutOfMemoryError:  # another process took it meanwhile
        return None
    for start in range(0, len(rows), _LOADED_AT_ONCE):
        stop = start + _LOADED_AT_ONCE
        features[start:stop] = store.features(rows[start:stop])
    _resident[key] = features
    return features
