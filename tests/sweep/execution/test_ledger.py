import io
from collections.abc import Callable

import pytest
from ray.tune.utils import flatten_dict
from rich.console import Console

from medcap_core.errors import DataFault, MedcapError, NonFiniteLoss, OutOfMemory
from sweep.execution.ledger import Ledger, read_epoch
from sweep.execution.trial import describe_failure
from sweep.study.record import TrialState
from sweep.study.study import Study
from sweep.terminal.view import SweepView
from tests.support.small_runs import figures_of, fixed_length, report_of


@pytest.mark.parametrize(
    ("failure", "is_config_at_fault"),
    [(NonFiniteLoss("diverged"), True), (OutOfMemory("full"), True), (DataFault("broken"), False), (None, False)],
)
def test_the_study_learns_whether_a_config_is_at_fault(
    create: Callable[..., Study], failure: MedcapError | None, is_config_at_fault: bool
) -> None:
    study = create(fixed_length(1))
    view = SweepView(
        Console(file=io.StringIO()), name="run", total_trials=9, header_lines=[], objective=study.space.objective
    )
    ledger = Ledger(study, view)
    record = study.propose()
    assert record is not None
    if failure is None:
        ledger.end(record.name, "the process was killed")
    else:
        assert not ledger.take_result(record.name, describe_failure(failure))
        ledger.end(record.name)
    assert (record.state, record.is_config_at_fault) == (TrialState.FAILED, is_config_at_fault)


@pytest.mark.parametrize("parts", [{}, {"CIDEr": 0.5, "validation_loss": 1.5}])
def test_the_scores_of_a_sum_come_through_tune(create: Callable[..., Study], parts: dict[str, float]) -> None:
    record = create(fixed_length(1)).propose()
    assert record is not None
    flattened = flatten_dict(figures_of(record, 1, 0.75, parts=parts))
    assert read_epoch(flattened) == report_of(record, 1, 0.75, parts=parts)
