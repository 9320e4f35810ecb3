"""The sections of a space file as models: what each key takes, its bounds, its default and what it is for.

`SearchSpace` is the whole file; `sweep.space` reads it, and checks across its keys.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo, field_validator

from medcap_core.config import absolute_if_path
from medcap_core.objective import Objective, ObjectiveField
from medcap_core.scoring.options import DEFAULT_BERTSCORE_MODEL, CaptionPreprocessing, ScoringOptions
from medcap_core.scoring.registry import STANDARD, list_scores
from sweep.space.fields import (
    FieldValue,
    Section,
    WrongKey,
    WrongValue,
    read_keyed_field,
    show,
    suggest_spelling,
    with_keys,
)
from sweep.space.ranges import Ranges

SECTIONS = ("models", "fixed", "search", "first_points", "resources")
"""Keys with a mapping or a list of mappings behind them."""

TOP_LEVEL_FIELDS = ("data", "model", "objective", "bertscore_model", "bertscore_idf")
"""Fields of a trial that are keys of the file."""

BASELINES = ("zero_shot", "caption_prior", "shuffled_images", "nearest_image", "best")
"""Rows of the test table that every run has; with `test: all` trials are rows too."""

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _read_fixed_value(keyed: tuple[str, Any]) -> Any:
    field, _ = keyed
    if field in TOP_LEVEL_FIELDS:
        raise WrongValue("this key has its place at the top level", f"write '{field}:' beside 'name:'")
    return read_keyed_field(keyed, noun="key")


def _read_model(keyed: tuple[Any, Any]) -> str:
    alias, name = keyed
    if not isinstance(alias, str) or not _ALIAS.fullmatch(alias):
        raise WrongKey(f"{show(alias)} is no alias", "use letters, digits, '_' and '-' only, such as blip2")
    if not isinstance(name, str) or not name:
        raise WrongValue(f"{show(name)} is no model", "give a name, a Hub model or a path")
    return absolute_if_path(name)


Place = Annotated[str, AfterValidator(absolute_if_path)]
FirstPoint = Annotated[dict[str, FieldValue], Field(min_length=1), BeforeValidator(with_keys)]


class Resources(Section):
    """What one trial takes and how many run at once; `auto` is settled from what the machine or cluster has."""

    workers_per_trial: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        1,
        description="Processes that share a trial; its batch size stays global. `auto`: one for each GPU of a trial, "
        "and the GPUs dealt to the trials that run at once.",
    )
    gpus_per_trial: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        "auto", description="GPUs of a trial, over all of its workers; a fraction shares one GPU among trials."
    )
    cpus_per_trial: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="CPU cores of a trial, over all of its workers."
    )
    max_concurrent: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Trials that run at once."
    )
    cluster_cpus: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="CPU cores to which an autoscaling cluster may grow; `auto` counts what is there."
    )
    cluster_gpus: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="GPUs to which an autoscaling cluster may grow; `auto` counts what is there."
    )

    @field_validator("gpus_per_trial")
    @classmethod
    def _check_gpus(cls, gpus: Any, info: ValidationInfo) -> Any:
        workers = info.data.get("workers_per_trial", 1)
        if gpus != "auto" and gpus > 1 and gpus != int(gpus):
            raise WrongValue(f"{gpus} is above 1 and not whole", "give a share of one GPU or whole ones")
        if "auto" not in (gpus, workers) and workers > 1 and gpus % workers:
            raise WrongValue(
                f"{gpus} cannot be dealt to {workers} workers, which need whole GPUs or none",
                f"give 0 or a multiple of {workers}",
            )
        return gpus


class SearchSpace(Section):
    """One sweep, whole. Build it with `load_space` or `build_space`, which also check across keys.

    A knob of `search` that no range covers in some part of the space has TrialConfig's default there.
    """

    sections = SECTIONS

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the sweep; its run directories begin with it."
    )
    data: Place = Field("phantoms", min_length=1, description="Data set: a name, a Hub data set or a path.")
    model: Place = Field("phantom-blip", min_length=1, description="Base model: a name, a Hub model or a path.")
    models: Annotated[dict[str, Annotated[str, PlainValidator(_read_model)]], BeforeValidator(with_keys)] = Field(
        {}, description="In place of `model`: short names of several models, searched by the knob `model`."
    )
    fixed: Annotated[dict[str, Annotated[Any, PlainValidator(_read_fixed_value)]], BeforeValidator(with_keys)] = Field(
        {}, description="Fields of a trial with one value for all trials."
    )
    search: Annotated[dict[str, Ranges], BeforeValidator(with_keys)] = Field(
        {}, description="Fields of a trial to search, each with its range or its list of conditional ranges."
    )
    first_points: tuple[FirstPoint, ...] = Field(
        (), description="Points that are tried first; knobs left out of one are drawn."
    )
    trials: int = Field(
        12, ge=1, description="Number of trials; a grid has one for each row, and a space without a search has one."
    )
    sampler: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="How points are proposed: by Optuna's TPE, at random, or every row of a grid."
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        (), description="Seeds that each row of a grid is repeated with."
    )
    scheduler: Literal["asha", "hyperband", "median", "none"] = Field(
        "asha", description="The rule that stops weak trials early; never in a grid with `test: all`."
    )
    reduction_factor: int = Field(
        2, ge=2, description="One in this many trials passes each rung; each rung is this many times the one before."
    )
    grace_fraction: float = Field(
        0.25, gt=0, le=1, description="Share of a trial's own schedule that it trains before the first rung."
    )
    objective: ObjectiveField = Field(
        Objective(),
        description="What trials are ranked by: the validation score of each one's best epoch.",
        json_schema_extra={"default": "CIDEr"},
    )
    max_hours: float | None = Field(
        None,
        gt=0,
        description="Hours after which no trial and no epoch begins any more: the best model so far is then tested. "
        "Pauses before `--resume` do not count.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the search, and of each trial that has none of its own.")
    test: Literal["best", "all"] = Field("best", description="Trials that are scored on the test split.")
    baseline: str = Field(
        "zero_shot",
        min_length=1,
        description="Row of the test table that all others are tested against; with `test: all` also a trial.",
    )
    extra_scores: tuple[str, ...] = Field(
        (),
        description="Further columns of the test table: rouge1, bertscore, imageclef2026, or of an installed package.",
    )
    bertscore_model: Place = Field(
        DEFAULT_BERTSCORE_MODEL, min_length=1, description="Encoder of BERTScore: a Hub model or a path."
    )
    bertscore_idf: bool = Field(False, description="Weigh the tokens of BERTScore by their rarity in the references.")
    score_models: dict[str, Place] = Field(
        {}, description="Models of extra scores by the score's own key: Hub models or paths."
    )
    caption_preprocessing: CaptionPreprocessing = Field(
        "none", description="What is done to captions and references before they are scored on the test split."
    )
    keep_checkpoints: bool = Field(False, description="Keep the weights of every trial, not of the best three only.")
    resources: Resources = Field(Resources(), description="What one trial takes and how many trials run at once.")

    @field_validator("seeds", "extra_scores")
    @classmethod
    def _check_repeats(cls, values: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            noun = "seed" if info.field_name == "seeds" else "score"
            raise WrongValue(f"{show(values)} holds a {noun} twice", "remove one")
        return values

    @field_validator("extra_scores")
    @classmethod
    def _check_scores(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        known = [key for key in list_scores() if key not in STANDARD]
        if unknown := [value for value in values if value not in known]:
            raise WrongValue(
                f"none of the installed scores is {' or '.join(map(show, unknown))} ({', '.join(known)})",
                suggest_spelling(unknown[0], known) or "correct it, or install its package",
            )
        return values

    @property
    def model_names(self) -> str:
        """The sweep's models in one line: a name, or aliases with what they stand for."""
        return ", ".join(f"{alias} = {name}" for alias, name in self.models.items()) or self.model

    @property
    def stops_weak_trials(self) -> bool:
        """Whether trials may be stopped early; a comparison, a grid with `test: all`, needs all of its rows whole."""
        return self.scheduler != "none" and not (self.sampler == "grid" and self.test == "all")

    @property
    def scoring_options(self) -> ScoringOptions:
        """How the test split is scored; the search's objective knows only those of BERTScore."""
        return ScoringOptions(
            self.extra_scores,
            self.bertscore_model,
            self.caption_preprocessing,
            self.bertscore_idf,
            tuple(self.score_models.items()),
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return every key with plain YAML values; `build_space` makes an equal space of it."""
        values = self.model_dump(mode="json", exclude={"search", "model"} if self.models else {"search"})
        search = {knob: [item.to_mapping() for item in ranges] for knob, ranges in self.search.items()}
        values["search"] = {knob: items[0] if len(items) == 1 else items for knob, items in search.items()}
        return {key: values[key] for key in type(self).model_fields if key in values}


SETTINGS = tuple(name for name in SearchSpace.model_fields if name not in SECTIONS)
