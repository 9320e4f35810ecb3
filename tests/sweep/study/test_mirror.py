"""A run under a URL: what the storage has at any moment is enough to go on elsewhere."""

import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from medcap_core.errors import RunFault
from medcap_core.runtime.storage import Storage, StorageFault
from sweep.status import read_standing
from sweep.study import mirror as mirror_module
from sweep.study.directory import show_run
from sweep.study.mirror import check_new_place, find_run
from sweep.study.record import TrialState
from sweep.study.study import Study
from tests.support.small_runs import Trainer, essence, optuna_essence, report_of, run_one, space
from tests.support.unreliable_storage import UnreliableFileSystem

OnMachine = Callable[[str], None]


@pytest.fixture
def on_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnMachine:
    """Goes to a machine, whose disk goes by its name."""
    monkeypatch.setattr(mirror_module, "SECONDS_BETWEEN_UPLOADS", 0.02)
    return lambda name: monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / name))


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def begin(on_machine: OnMachine, bucket: Path, empty_runs: Callable[..., Study]) -> Callable[[], Study]:
    """Begins a run on the machine `first`."""

    def start() -> Study:
        on_machine("first")
        check_new_place(f"file://{bucket}")
        return empty_runs(f"file://{bucket}", space(trials=3, sampler="random"))

    return start


def go_on(place: Path) -> Study:
    return Study.open(f"file://{place}")


def read_files(folder: Path) -> dict[str, bytes]:
    """The files that follow from a run's events."""
    kept = ("space.yaml", "trials.csv", "trial.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.name in kept}


@pytest.mark.slow
def test_a_run_goes_on_elsewhere_from_any_moment(
    begin: Callable[[], Study], on_machine: OnMachine, bucket: Path, tmp_path: Path
) -> None:
    trainer = Trainer()
    with begin() as study:
        trainer.run(study, 1)
        record = study.propose()
        assert record is not None
        shutil.copytree(bucket, tmp_path / "cut after a proposal")
        study.start(record.name)
        study.report(record.name, report_of(record, 1, 0.5))
        shutil.copytree(bucket, tmp_path / "cut in mid-trial")
        study.requeue_stopped()
        trainer.run(study)
        whole = essence(study)
        num_written = len(list(study.directory.rglob("trial.json")))
    assert num_written == len(whole)
    on_machine("looker")
    with go_on(bucket) as study:  # on which nothing is left to do
        assert essence(study) == whole
        assert optuna_essence(study.directory)
        assert read_files(bucket) == read_files(study.directory)
    for place in ("cut after a proposal", "cut in mid-trial"):
        on_machine(place)
        with go_on(tmp_path / place) as study:
            Trainer().run(study)
            assert [entry[:4] for entry in essence(study)] == [entry[:4] for entry in whole]


def test_all_files_follow_but_those_of_trials_and_of_this_machine(begin: Callable[[], Study], bucket: Path) -> None:
    with begin() as study:
        run_one(study, 0.5, 0.7)
        kept = ["best/trial.txt", "best/model.safetensors", "tables/a.csv", "report.html", "trials/trial_0000/test.csv"]
        left = [
            "trials/trial_0000/checkpoints/last/x",
            "trials/trial_0000/log.txt",
            "ray/x",
            "best.partial/x",
            ".x.tmp",
        ]
        for name in (*kept, *left):
            path = study.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("1")
        wait_for((bucket / "best" / "trial.txt").exists)
        study.paths.page.write_text("22")
        shutil.rmtree(study.paths.best_model)
    found = {str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file()}
    usual = {"driver.json", "space.yaml", "study.db", "trials.csv", "trials/trial_0000/trial.json"}
    assert found == usual | {*kept[2:]}
    assert (bucket / "report.html").read_text() == "22"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_trials_stored_and_nobody_needs_is_removed(begin: Callable[[], Study], bucket: Path) -> None:
    with begin() as study:
        stored = []
        study.extend(2)
        for _ in range(5):
            record, _ = run_one(study, 0.1 * study.num_finished)
            for name in ("last", "best"):
                path = bucket / "trials" / record.name / "checkpoints" / name / "x"
                path.parent.mkdir(parents=True)
                path.write_text("1")
                stored.append(path)
        study.tidy_checkpoints()
        needless = [path for path in stored if "last" in path.parts or path.parts[-4] in ("trial_0000", "trial_0001")]
        wait_for(lambda: not any(path.exists() for path in needless))
        (bucket / "trials/trial_0000/checkpoints/last").mkdir(parents=True, exist_ok=True)
        (bucket / "trials/trial_0000/checkpoints/last/x").write_text("by a trial that was just stopped")
    found = sorted(str(path.relative_to(bucket / "trials")) for path in bucket.rglob("x"))
    assert found == [f"trial_000{number}/checkpoints/best/x" for number in (2, 3, 4)]


def test_a_driver_that_was_replaced_stops(begin: Callable[[], Study], on_machine: OnMachine, bucket: Path) -> None:
    with begin() as study:
        run_one(study, 0.5)
        on_machine("second")
        with go_on(bucket) as other:
            record, _ = run_one(other, 0.7)
            wait_for(study._mirror._following.done)  # type: ignore[union-attr]
            with pytest.raises(RunFault, match=r"/bucket: a run on .+ has taken over, so this one stops; look there"):
                study.propose()
        stored = (bucket / "trials" / record.name / "trial.json").read_bytes()
    assert (bucket / "trials" / record.name / "trial.json").read_bytes() == stored


def test_what_did_not_reach_the_storage_is_sent_by_the_same_machine(
    begin: Callable[[], Study], bucket: Path, tmp_path: Path
) -> None:
    with begin() as study:
        run_one(study, 0.5)
        shutil.copytree(bucket, tmp_path / "before")
        run_one(study, 0.7)
        whole = essence(study)
    shutil.rmtree(bucket)
    shutil.copytree(tmp_path / "before", bucket)
    with go_on(bucket) as study:
        assert essence(study) == whole
    shutil.rmtree(bucket)  # all is lost there
    with pytest.raises(RunFault, match=r"is empty, but .+ still has the files of a run"):
        check_new_place(f"file://{bucket}")
    with go_on(bucket) as study:
        assert essence(study) == whole
    assert (bucket / "trials/trial_0001/trial.json").is_file()


@pytest.mark.slow
def test_failed_trials_that_begin_anew_lose_their_stored_epochs(begin: Callable[[], Study], bucket: Path) -> None:
    with begin() as study:
        record = study.propose()
        assert record is not None
        stored = bucket / "trials" / record.name / "checkpoints" / "history.json"
        stored.parent.mkdir(parents=True)
        stored.write_text("[]")
        study.finish(record.name, TrialState.FAILED, "lost")
    with Study.open(study.address, retry_failed=True) as study:
        assert study.record(record.name).state is TrialState.STOPPED
        assert not stored.exists()


def test_a_run_that_was_killed_before_its_first_trial_stands_in_nobodys_way(
    begin: Callable[[], Study], bucket: Path
) -> None:
    with begin() as study:
        assert study.paths.space.is_file()
    assert [path.name for path in bucket.iterdir()] == ["driver.json"]
    check_new_place(f"file://{bucket}")
    assert not study.directory.exists()


def test_places_that_do_not_suit_are_refused(
    begin: Callable[[], Study], on_machine: OnMachine, bucket: Path, tmp_path: Path
) -> None:
    with begin() as study:
        run_one(study, 0.5)
    with pytest.raises(RunFault, match=r"^--out file://.+ is not empty; .+ by --resume file://.+/bucket\.$"):
        check_new_place(f"file://{bucket}")
    with pytest.raises(RunFault, match=r"^file://.+/nothing holds no run; give the URL"):
        go_on(tmp_path / "nothing")
    with pytest.raises(RunFault, match=r"^--out memory://run: each process has a memory of its own"):
        check_new_place("memory://run")
    on_machine("second")
    (bucket / "space.yaml").unlink()
    with pytest.raises(RunFault, match=r"^file://.+/bucket holds no run"):
        go_on(bucket)
    assert Storage(f"file://{bucket}").read("driver.json") is not None


def test_a_storage_that_refuses_ends_the_run_in_one_sentence_and_loses_nothing(
    on_machine: OnMachine, empty_runs: Callable[..., Study]
) -> None:
    on_machine("first")
    url = f"unreliable://{uuid.uuid4().hex}"
    with empty_runs(url, space(trials=3, sampler="random")) as study:
        run_one(study, 0.5)
        record = study.propose()
        assert record is not None
        UnreliableFileSystem.faults[:] = [PermissionError("the token has expired")] * 9
        refused = r"access is refused \(the token has expired\); check the credentials"
        with pytest.raises(StorageFault, match=refused):
            study.report(record.name, report_of(record, 1, 0.7))
        with pytest.raises(StorageFault, match=refused):
            study.stop_unfinished("as the run ends")
        assert len(UnreliableFileSystem.faults) >= 7
    UnreliableFileSystem.faults.clear()
    with Study.open(url) as study:
        assert [epoch.score for epoch in study.record(record.name).epochs] == [0.7]
        name = f"trials/{record.name}/trial.json"
        assert Storage(url).read(name) == (study.directory / name).read_bytes()


def test_a_storage_that_stays_away_is_known_while_no_trial_reports(
    on_machine: OnMachine, empty_runs: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine("first")
    monkeypatch.setenv("MEDCAP_STORAGE_TIMEOUT", "0.1")
    url = f"unreliable://{uuid.uuid4().hex}"
    with pytest.raises(StorageFault), empty_runs(url, space(trials=3)) as study:
        run_one(study, 0.5)
        study.check_files()
        UnreliableFileSystem.faults[:] = [ConnectionError("reset")] * 9
        while True:
            study.check_files()
            time.sleep(0.01)
    UnreliableFileSystem.faults.clear()


def test_a_run_is_read_by_its_url(begin: Callable[[], Study], on_machine: OnMachine, bucket: Path) -> None:
    url = f"file://{bucket}"
    with begin() as study:
        run_one(study, 0.5)
        assert find_run(url) == study.directory  # where its driver is at work, as the lock says
        on_machine("looker")
        directory = find_run(url)
        assert directory != study.directory
        assert read_standing(directory).trials == {TrialState.SUCCEEDED: 1}
        assert read_standing(directory).directory == url
        assert show_run(directory) == show_run(study.directory) == url
        table = (directory / "space.yaml").stat().st_mtime_ns
        run_one(study, 0.7)
        assert read_standing(find_run(url)).trials == {TrialState.SUCCEEDED: 2}
        assert (directory / "space.yaml").stat().st_mtime_ns == table  # only what is new is copied
    with go_on(bucket) as study:
        run_one(study, 0.8)
    on_machine("first")
    assert read_standing(find_run(url)).trials == {TrialState.SUCCEEDED: 3}
    assert find_run("runs/lora-001") == Path("runs/lora-001")
