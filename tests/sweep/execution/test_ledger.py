import io
from collections.abc import Callable

import pytest
from rich.console import Console

from medcap_core.errors import DataFault, MedcapError, NonFiniteLoss, OutOfMemory
from sweep.execution.ledger import Ledger
from sweep.execution.trial import describe_failure
from sweep.study.record import TrialState
from sweep.study.study import Study
from sweep.terminal.view import SweepView
from tests.support.small_runs import fixed_length


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
