"""What a checked search space holds; `sweep.space` reads and builds it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from medcap_core.objective import OBJECTIVES, Metric, Objective
from medcap_core.scoring.options import DEFAULT_BERTSCORE_MODEL, CaptionPreprocessing, ExtraScore, ScoringOptions
from sweep.space.ranges import Branch

BASELINES = ("zero_shot", "caption_prior", "shuffled_images", "nearest_image", "best")
"""Rows of the test table that every run has; with `test: all` trials are rows too."""

_LISTS = ("seeds", "extra_scores")


class Resources(BaseModel):
    """What one trial takes and how many run at once; `auto` is settled from what the machine or cluster has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers_per_trial: int = Field(1, ge=1, description="processes a trial is spread over; its batch size stays global")
    gpus_per_trial: Literal["auto"] | Annotated[float, Field(ge=0)] = Field("auto", description="may be a fraction")
    cpus_per_trial: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    max_concurrent: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"


class SearchSpace(BaseModel):
    """One sweep, whole. Build it with `load_space` or `build_space`, which also check across keys.

    A knob of `search` that no branch covers in some part of the space has TrialConfig's default there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="letters, digits, '.', '_' and '-' only")
    data: str = Field("phantoms", min_length=1, description="data set: a name, a Hub data set or a path")
    model: str = Field("phantom-blip", min_length=1, description="base model: a name, a Hub model or a path")
    models: dict[str, str] = Field(
        default_factory=dict, description="instead of `model`: alias -> name, to search over"
    )
    fixed: dict[str, Any] = Field(default_factory=dict, description="TrialConfig fields, one value for all trials")
    search: dict[str, tuple[Branch, ...]] = Field(default_factory=dict, description="TrialConfig fields to search")
    first_points: tuple[dict[str, Any], ...] = Field((), description="points tried first; knobs left out are drawn")
    trials: int = Field(12, ge=1, description="set to the number of rows in a grid, to 1 where nothing is searched")
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((), description="repeats each row of a grid")
    scheduler: Literal["asha", "none"] = "asha"
    reduction_factor: int = Field(2, ge=2, description="ASHA lets one in this many trials pass each rung")
    grace_fraction: float = Field(0.25, gt=0, le=1, description="share of its own schedule before the first rung")
    metric: Metric = Field("cider", description="what every trial is scored by: best epoch on validation, maximised")
    seed: int = Field(0, ge=0, lt=2**31)
    test: Literal["best", "all"] = "best"
    baseline: str = Field("zero_shot", min_length=1, description="row of the test table to test all others against")
    extra_scores: tuple[ExtraScore, ...] = Field((), description="further columns of the test table")
    bertscore_model: str = Field(DEFAULT_BERTSCORE_MODEL, min_length=1, description="encoder: a Hub name or a path")
    caption_preprocessing: CaptionPreprocessing = Field("none", description="of captions scored on the test split")
    keep_checkpoints: bool = Field(False, description="keep every trial's weights, not only the best three's")
    resources: Resources = Resources()

    @property
    def stops_weak_trials(self) -> bool:
        """Whether trials may be stopped early; a comparison, a grid with `test: all`, needs all of its rows whole."""
        return self.scheduler == "asha" and not (self.sampler == "grid" and self.test == "all")

    @property
    def objective(self) -> Objective:
        """What trials are ranked by."""
        return OBJECTIVES[self.metric]

    @property
    def scoring_options(self) -> ScoringOptions:
        """How the test split is scored; the search's own metric knows none of it."""
        return ScoringOptions(self.extra_scores, self.bertscore_model, self.caption_preprocessing)

    def to_mapping(self) -> dict[str, Any]:
        """Every key with plain YAML values; `build_space` makes an equal space of it."""
        values = self.model_dump(exclude={"search", "first_points", *_LISTS})
        search = {
            knob: branches[0].to_mapping() if len(branches) == 1 else [branch.to_mapping() for branch in branches]
            for knob, branches in self.search.items()
        }
        values["search"] = search
        values["first_points"] = [dict(point) for point in self.first_points]
        values |= {name: list(getattr(self, name)) for name in _LISTS}
        left_out = {"model"} if self.models else set()
        return {key: values[key] for key in type(self).model_fields if key not in left_out}


SECTIONS = ("models", "fixed", "search", "first_points", "resources")
SETTINGS = tuple(name for name in SearchSpace.model_fields if name not in SECTIONS)
