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


def _share(
    organs: Mapping[str, str],
    names: Choices,
    levels: Mapping[str, Choices],
    templates: Phrases,
    normal: Phrases,
) -> dict[str, Style]:
    """Build the styles of views whose sentences differ by the organ alone."""

    def fill(sentences: Phrases, organ: str) -> Phrases:
        return tuple(sentence.replace("{organ}", organ) for sentence in sentences)

    return {
        view: Style(names[view], fill(templates, organ), fill(normal, organ), levels[view])
        for view, organ in organs.items()
    }


_ORGANS = {
    "chest_pa": "lung",
    "ct_chest": "lung",
    "ct_abdomen_plain": "kidney",
    "mri_t1": "hemisphere",
    "us_liver": "lobe",
}

_FRONT_BACK: Choices = {"anterior": ("front",), "posterior": ("back",)}
PLAIN = Register(
    styles=_share(
        _ORGANS,
        {
            "chest_pa": ("chest X-ray", "frontal chest X-ray"),
            "ct_chest": ("chest CT", "CT scan of the chest"),
            "ct_abdomen_plain": ("abdominal CT", "CT scan of the belly"),
            "mri_t1": ("brain MRI", "T1 MRI of the brain"),
            "us_liver": ("liver ultrasound", "ultrasound of the liver"),
        },
        {
            "chest_pa": {"upper": ("upper", "top"), "middle": ("middle",), "lower": ("lower", "bottom")},
            "ct_chest": _FRONT_BACK,
            "ct_abdomen_plain": _FRONT_BACK,
            "mri_t1": {"frontal": ("front",), "parietal": ("middle",), "occipital": ("back",)},
            "us_liver": {"superficial": ("near",), "deep": ("far",)},
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
    "upper": ("apex", "apical region"),
    "middle": ("midzone", "perihilar region"),
    "lower": ("base", "basal region"),
}
_VENTRAL_DORSAL: Choices = {"anterior": ("ventral", "anterior"), "posterior": ("dorsal", "posterior")}
_LOBES: Choices = {"frontal": ("frontal",), "parietal": ("parietal",), "occipital": ("occipital",)}
_LAYERS: Choices = {"superficial": ("superficial", "subcapsular"), "deep": ("deep", "central")}

FORMAL = Register(
    styles=_share(
        _ORGANS,
        {
            "chest_pa": ("posteroanterior radiograph", "frontal film"),
            "ct_chest": ("axial lung tomogram",),
            "ct_abdomen_plain": ("plain renal tomogram",),
            "mri_t1": ("axial T1 acquisition",),
            "us_liver": ("hepatic sonogram",),
        },
        {
            "chest_pa": _ZONES_AFTER,
            "ct_chest": _VENTRAL_DORSAL,
            "ct_abdomen_plain": _VENTRAL_DORSAL,
            "mri_t1": _LOBES,
            "us_liver": _LAYERS,
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

_ZONES_ADJECTIVE: Choices = {
    "upper": ("apical", "upper"),
    "middle": ("perihilar", "mid"),
    "lower": ("basal", "lower"),
}

REPORT_ORGANS = {
    "chest_ap": "hemithorax",
    "ct_chest": "lung parenchyma",
    "ct_abdomen_contrast": "renal cortex",
    "ct_head": "cerebral hemisphere",
    "mri_flair": "territory",
    "us_thyroid": "thyroid gland",
}

# One frame for all views, so that scores measure a caption's facts rather than the sentence around them.
REPORT = Register(
    styles=_share(
        REPORT_ORGANS,
        {
            "chest_ap": ("bedside film", "portable anteroposterior film"),
            "ct_chest": ("lung window tomogram", "thoracic tomogram"),
            "ct_abdomen_contrast": ("portal venous tomogram", "enhanced abdominal tomogram"),
            "ct_head": ("cranial tomogram", "emergency head tomogram"),
            "mri_flair": ("FLAIR sequence", "cerebral FLAIR acquisition"),
            "us_thyroid": ("cervical sonogram", "transverse thyroid sonogram"),
        },
        {
            "chest_ap": _ZONES_ADJECTIVE,
            "ct_chest": _VENTRAL_DORSAL,
            "ct_abdomen_contrast": _VENTRAL_DORSAL,
            "ct_head": _LOBES,
            "mri_flair": _LOBES,
            "us_thyroid": _LAYERS,
        },
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
