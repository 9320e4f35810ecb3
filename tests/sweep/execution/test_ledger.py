import io
import json
import shutil
from collections.abc import Callable

import pytest
from ray.tune.utils import flatten_dict
from rich.console import Console

from medcap_core.errors import DataFault, MedcapError, NonFiniteLoss, OutOfMemory, RunFault
from sweep.execution import ledger as ledger_module
from sweep.execution.ledger import Ledger, read_epoch
from sweep.execution.nodes import NodeSize
from sweep.execution.trial import PLACES, SAMPLE, describe_failure, describe_node_fault
from sweep.status import read_standing
from sweep.study.record import TrialState
from sweep.study.study import Study
from sweep.terminal.progress import SweepProgress
from sweep.terminal.view import SweepView
from tests.support.real_runs import quiet_view
from tests.support.small_runs import figures_of, fixed_length, report_of


@pytest.mark.parametrize(
    ("failure", "is_config_at_fault"),
    [(NonFiniteLoss("diverged"), True), (OutOfMemory("full"), True), (DataFault("broken"), False), (None, False)],
)
def test_the_study_learns_whether_a_config_is_at_fault(
    create: Callable[..., Study], failure: MedcapError | None, is_config_at_fault: bool
) -> None:
    study = create(fixed_length(1))
    ledger = Ledger(study, quiet_view(9))
    record = study.propose()
    assert record is not None
    if failure is None:
        ledger.end(record.name, "the process was killed")
    else:
        assert not ledger.take_result(record.name, describe_failure(failure))
        ledger.end(record.name)
    assert (record.state, record.is_config_at_fault) == (TrialState.FAILED, is_config_at_fault)


def test_nodes_where_trials_met_faults_get_no_share_of_the_test_split(
    create: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "list_nodes", lambda: [NodeSize(1, id="a"), NodeSize(1, id="b")])
    study = create(fixed_length(1, trials=2))
    ledger = Ledger(study, quiet_view(9))
    records = [study.propose(), study.propose()]
    for record in filter(None, records):
        assert ledger.list_avoided_nodes() == ()
        ledger.start(record.name)
        ledger.take_result(record.name, {PLACES: json.dumps({"worker 0": "a"})})
        ledger.take_result(record.name, describe_node_fault(DataFault("gone"), 0))
        ledger.take_death(record.name, "")
    assert ledger.list_avoided_nodes() == ("a",)


def test_a_directory_that_was_removed_ends_the_run(create: Callable[..., Study]) -> None:
    study = create(fixed_length(2))
    ledger = Ledger(study, quiet_view(9))
    study.propose()
    shutil.rmtree(study.directory)
    with pytest.raises(RunFault, match=rf"^{study.directory} was removed while the run went on; begin again"):
        ledger.refresh_at_intervals()
    assert "was removed" in str(ledger.fault)
    ledger.stop_unfinished()
    assert not study.directory.exists()


def test_the_sample_of_an_epoch_is_kept_for_those_who_look(create: Callable[..., Study]) -> None:
    study = create(fixed_length(2))
    record = study.propose()
    assert record is not None
    sample = ("a lung", "the left lung")
    result = flatten_dict(figures_of(record, 1, 0.5)) | {SAMPLE: json.dumps(sample)}
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    with SweepView(console, SweepProgress(9, study.space.objective), name="r") as view:
        ledger = Ledger(study, view)
        ledger.start(record.name)
        assert ledger.take_result(record.name, result)
        ledger.refresh()
        assert sample[1] in str(view._progress.rows)
    (standing,) = read_standing(study.directory).running
    assert standing.sample == sample


@pytest.mark.parametrize("parts", [{}, {"CIDEr": 0.5, "validation_loss": 1.5}])
def test_the_scores_of_a_sum_come_through_tune(create: Callable[..., Study], parts: dict[str, float]) -> None:
    record = create(fixed_length(1)).propose()
    assert record is not None
    flattened = flatten_dict(figures_of(record, 1, 0.75, parts=parts))
    assert read_epoch(flattened) == report_of(record, 1, 0.75, parts=parts)
