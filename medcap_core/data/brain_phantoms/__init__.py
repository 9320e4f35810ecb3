"""The embedded 3D data set: synthetic heads of five cohorts, drawn on demand, with reports and questions."""

from medcap_core.data.brain_phantoms.source import DRAWING_VERSION, MASK_NAMES, BrainPhantom, load_brain_phantoms

__all__ = ["DRAWING_VERSION", "MASK_NAMES", "BrainPhantom", "load_brain_phantoms"]
