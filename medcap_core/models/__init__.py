"""Captioner families, and how their models are found and loaded."""

from medcap_core.models.captioner import Captioner
from medcap_core.models.families import EMBEDDED_MODELS, find_family, resolve_model
from medcap_core.models.loading.captioners import hash_weights, load_captioner, load_geometry, load_trial_captioner
from medcap_core.models.tokens import TokenizedCaptions

__all__ = [
    "EMBEDDED_MODELS",
    "Captioner",
    "TokenizedCaptions",
    "find_family",
    "hash_weights",
    "load_captioner",
    "load_geometry",
    "load_trial_captioner",
    "resolve_model",
]
