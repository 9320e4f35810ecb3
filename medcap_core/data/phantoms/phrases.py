"""The phrases for every fact, in three registers; the first phrase of each list is the usual one.

The general domain uses the plain and, less often, the formal register; the target domain only the report register.
Formal and report share phrases for levels and sizes but differ in findings and sentences. A formal caption may end in
one of the `ASIDES`, which deny a finding of the report register: a model of the general domain thus has every report
word in its vocabulary, as a web-pretrained captioner has, without ever seeing the finding it names.

Report phrases have hyphens and decimals as radiology captions do: a WordPiece decoder writes "a - b" for "a-b" and
"1. 5" for "1.5", which score as other words unless they are rejoined (`medcap_core.models.wordpiece`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

Phrases = tuple[str, ...]
Choices = Mapping[str, Phrases]


@dataclass(frozen=True)
class Style:
    """The phrases for one view.

    Templates take {name}, {finding} with its article, {bare} without, {side}, {level} and {size}; `normal` takes
    {name}. The first letter is capitalised later.
    """

    names: Phrases
    templates: Phrases
    normal: Phrases
    levels: Choices


@dataclass(frozen=True)
class Register:
    """Styles by view, nouns by finding, and sizes, which precede the noun if `size_first`."""

    styles: Mapping[str, Style]
    findings: Choices
    sizes: Choices
    size_first: bool = False


def _build_styles(
    views: Mapping[str, tuple[str, Phrases, Choices]], templates: Phrases, normal: Phrases
) -> dict[str, Style]:
    """Build the styles of views whose sentences differ by the organ alone: each has its organ, names and levels."""

    def fill(sentences: Phrases, organ: str) -> Phrases:
        return tuple(sentence.replace("{organ}", organ) for sentence in sentences)

    return {
        view: Style(names, fill(templates, organ), fill(normal, organ), levels)
        for view, (organ, names, levels) in views.items()
    }


_FRONT_BACK: Choices = {"anterior": ("front",), "posterior": ("back",)}
_HEIGHTS: Choices = {"upper": ("upper", "top"), "middle": ("middle",), "lower": ("lower", "bottom")}
_THIRDS: Choices = {"frontal": ("front",), "parietal": ("middle",), "occipital": ("back",)}
_DISTANCES: Choices = {"superficial": ("near",), "deep": ("far",)}
PLAIN = Register(
    _build_styles(
        {
            "chest_pa": ("lung", ("chest X-ray", "frontal chest X-ray"), _HEIGHTS),
            "ct_chest": ("lung", ("chest CT", "CT scan of the chest"), _FRONT_BACK),
            "ct_abdomen_plain": ("kidney", ("abdominal CT", "CT scan of the belly"), _FRONT_BACK),
            "mri_t1": ("hemisphere", ("brain MRI", "T1 MRI of the brain"), _THIRDS),
            "us_liver": ("lobe", ("liver ultrasound", "ultrasound of the liver"), _DISTANCES),
        },
        templates=(
            "{name} showing {finding} in the {level} part of the {side} {organ}.",
            "{name} with {finding} seen in the {side} {organ}, {level} part.",
            "There is {finding} in the {level} part of the {side} {organ} on this {name}.",
        ),
        normal=(
            "Normal {name} with nothing wrong to be seen in either {organ}.",
            "{name} showing a normal {organ} on each side and no disease.",
        ),
    ),
    findings={
        "nodule": ("a round nodule", "a coin lesion"),
        "consolidation": ("a patchy opacity", "a cloudy area"),
        "effusion": ("a pleural effusion", "a layer of fluid"),
        "lung_nodule": ("a round nodule", "a coin lesion"),
        "lung_consolidation": ("a patchy opacity", "a cloudy area"),
        "renal_cyst": ("a dark cyst", "a water cyst"),
        "renal_stone": ("a bright stone", "a kidney stone"),
        "hypointense_lesion": ("a dark lesion", "a dark spot"),
        "hyperintense_bleed": ("a bright bleed", "a bright clot"),
        "hepatic_cyst": ("a dark cyst", "a water cyst"),
        "haemangioma": ("a bright haemangioma", "a bright mass"),
    },
    sizes={"small": ("small", "tiny"), "moderate": ("medium",), "large": ("large", "big")},
    size_first=True,
)

_SIZES_AFTER: Choices = {
    "small": ("of limited extent", "of 1.5 cm extent"),
    "moderate": ("of intermediate extent",),
    "large": ("of considerable extent", "of 4.5 cm extent"),
}
_ZONES_AFTER: Choices = {
    "upper": ("apex", "apical region"), "middle": ("midzone", "perihilar region"), "lower": ("base", "basal region"),
}  # fmt: skip
_VENTRAL_DORSAL: Choices = {"anterior": ("ventral", "anterior"), "posterior": ("dorsal", "posterior")}
_LOBES: Choices = {"frontal": ("frontal",), "parietal": ("parietal",), "occipital": ("occipital",)}
_LAYERS: Choices = {"superficial": ("superficial", "subcapsular"), "deep": ("deep", "central")}

FORMAL = Register(
    _build_styles(
        {
            "chest_pa": ("lung", ("posteroanterior radiograph", "frontal film"), _ZONES_AFTER),
            "ct_chest": ("lung", ("axial lung tomogram",), _VENTRAL_DORSAL),
            "ct_abdomen_plain": ("kidney", ("plain renal tomogram",), _VENTRAL_DORSAL),
            "mri_t1": ("hemisphere", ("axial T1 acquisition",), _LOBES),
            "us_liver": ("lobe", ("hepatic sonogram",), _LAYERS),
        },
        templates=(
            "{side} {organ}, {level}, harbours {finding} {size} as this {name} demonstrates.",
            "This {name} discloses {finding}, {size}, by the {side} {organ}, {level}.",
            "{bare}, {size}, {side} {organ}, {level}, is what this {name} reveals.",
        ),
        normal=(
            "This {name} reveals symmetrical appearances of either {organ} without pathological signal or density.",
            "Unremarkable {organ}, symmetrical and homogeneous, is what this {name} demonstrates.",
        ),
    ),
    findings={
        "nodule": ("a pulmonary nodule",),
        "consolidation": ("an airspace infiltrate",),
        "effusion": ("a pleural collection",),
        "lung_nodule": ("a pulmonary nodule",),
        "lung_consolidation": ("an airspace infiltrate",),
        "renal_cyst": ("a hypodense cyst",),
        "renal_stone": ("a calcified calculus",),
        "hypointense_lesion": ("a hypointense focus",),
        "hyperintense_bleed": ("a hyperintense haemorrhage",),
        "hepatic_cyst": ("an anechoic cyst",),
        "haemangioma": ("an echogenic haemangioma",),
    },
    sizes=_SIZES_AFTER,
)

ASIDES: Phrases = (
    "Nothing involving the {organ} nor depicting {finding}.",
    "Not {finding}, preserved {organ} anatomy bilaterally.",
    "Unlike {finding}, otherwise preserved {name}.",
    "According to the earlier {name} neither {organ} contains {finding}.",
)

_ZONES_ADJECTIVE: Choices = {"upper": ("apical", "upper"), "middle": ("perihilar", "mid"), "lower": ("basal", "lower")}

# One frame for all views, so that scores measure a caption's facts rather than the sentence around them.
_REPORT_VIEWS: Mapping[str, tuple[str, Phrases, Choices]] = {
    "chest_ap": ("hemithorax", ("bedside film", "portable anteroposterior film"), _ZONES_ADJECTIVE),
    "ct_chest": ("lung parenchyma", ("lung window tomogram", "thoracic tomogram"), _VENTRAL_DORSAL),
    "ct_abdomen_contrast": (
        "renal cortex", ("portal venous tomogram", "enhanced abdominal tomogram"), _VENTRAL_DORSAL,
    ),
    "ct_head": ("cerebral hemisphere", ("cranial tomogram", "emergency head tomogram"), _LOBES),
    "mri_flair": ("territory", ("FLAIR sequence", "cerebral FLAIR acquisition"), _LOBES),
    "us_thyroid": ("thyroid gland", ("cervical sonogram", "transverse thyroid sonogram"), _LAYERS),
}  # fmt: skip
REPORT_ORGANS = [organ for organ, _, _ in _REPORT_VIEWS.values()]
REPORT = Register(
    _build_styles(
        _REPORT_VIEWS,
        templates=(
            "{name} depicting {finding} {size} involving the {side} {level} {organ}.",
            "{finding} {size} involving the {side} {level} {organ}, {name}.",
            "The {side} {level} {organ} contains {finding} {size} according to the {name}.",
            "{name}: {side} {level} {organ}, {bare} {size}, otherwise preserved anatomy.",
        ),
        normal=(
            "{name} depicting preserved anatomy of the {organ} bilaterally.",
            "Preserved anatomy of the {organ} bilaterally, unremarkable {name}.",
        ),
    ),
    findings={
        "nodule": ("a well-circumscribed rounded density", "a solitary rounded density"),
        "pneumothorax": ("a pneumothorax", "a pneumothorax with visible pleural line"),
        "cavity": ("a thick-walled cavity", "a cavitating process"),
        "ground_glass": ("a hazy ground-glass attenuation", "a ground-glass attenuation"),
        "lung_cavity": ("a thick-walled cavity", "a cavitating process"),
        "renal_mass": ("a heterogeneous enhancing neoplasm", "an exophytic neoplasm"),
        "hydronephrosis": ("a calyceal dilatation", "a hydronephrosis"),
        "plaque": ("a demyelinating plaque", "an ovoid demyelinating plaque"),
        "infarct": ("a wedge-shaped infarction", "an ischaemic infarction"),
        "abscess": ("a ring-like abscess with vasogenic oedema", "an encapsulated abscess"),
        "epidural": ("a biconvex epidural haematoma", "a lentiform epidural haematoma"),
        "subdural": ("a crescentic subdural haematoma", "a subdural haematoma"),
        "parenchymal_bleed": ("a hyperdense parenchymal haematoma", "an intracerebral haematoma"),
        "calcified_nodule": ("a calcified nodule with shadowing", "a hypoechoic nodule with calcification"),
        "spongiform_nodule": ("a spongiform nodule", "a microcystic nodule"),
        "thyroid_cyst": ("an anechoic colloid cyst", "a colloid cyst"),
    },
    sizes=_SIZES_AFTER,
)
