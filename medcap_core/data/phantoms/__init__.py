"""The embedded data set: synthetic radiographs, CT, MRI and ultrasound, drawn on demand from a seed.

Sides follow the radiological convention: the patient's right is on the image's left.
"""

from medcap_core.data.phantoms.source import DRAWING_VERSION, PhantomImage, load_phantoms

__all__ = ["DRAWING_VERSION", "PhantomImage", "load_phantoms"]
