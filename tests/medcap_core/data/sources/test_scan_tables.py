"""Tables of scans: recognised, read, and refused with a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest

from medcap_core.data.records import SkippedRecord
from medcap_core.data.scans import files
from medcap_core.data.scans.files import DicomSeries, NiftiFile, NpyFile
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, Diagnosis, Question, ScanRecord, ask_diagnosis
from medcap_core.data.sources import load_data
from medcap_core.data.sources.scan_tables import cut_diagnosis, is_scan_table, read_scan_table
from medcap_core.errors import DataFault
from tests.medcap_core.data.conftest import DrawImage
from tests.support.data_sets import ids, write
from tests.support.volume_writing import number_voxels, write_nifti

NO_SUBJECTS = (
    "{} has no column of subjects, so each path counts as a subject of its own; where subjects have several scans, "
    "name them in a column 'subject', or their scans will lie in several splits."
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.nii.gz", "sub/b.nii", "c.nii.gz"):
        write_nifti(tmp_path / name, number_voxels())
    np.save(tmp_path / "d.npy", number_voxels())
    return tmp_path


def scans(path: Path, split: str = "train") -> list[ScanRecord]:
    return read_scan_table(path).splits[split]  # type: ignore[return-value,index]


@pytest.mark.parametrize("name", ["ADNI-train.csv", "train.tsv"])
def test_the_published_form_has_tabs_and_no_header(folder: Path, name: str) -> None:
    rows = [
        'a.nii.gz\tA man of 71, "slow", with a score of 25, 26 or 27. The diagnosis is MCI.',
        "sub/b.nii\tA woman of 80. The diagnosis is Nondemented",
        "c.nii.gz\tNothing known.",
    ]
    path = write(folder / name, "\n".join(rows) + "\n")
    reading = read_scan_table(path)
    first, second, third = reading.splits["train"]
    assert first == ScanRecord(
        "a.nii.gz",
        NiftiFile(folder / "a.nii.gz"),
        'A man of 71, "slow", with a score of 25, 26 or 27.',
        "a.nii.gz",
        diagnosis=Diagnosis.MCI,
        questions=(ask_diagnosis(Diagnosis.MCI),),
    )
    assert (second.caption, second.diagnosis) == ("A woman of 80.", Diagnosis.NOT_DEMENTED)
    assert (third.caption, third.diagnosis, third.questions) == ("Nothing known.", None, ())
    assert reading.notes == [NO_SUBJECTS.format(name)]


def test_every_column(folder: Path) -> None:
    content = (
        "Image,Report,Split,Subject,Cohort,Diagnosis,ID,scanner\n"
        'a.nii.gz,"One, two",train,001,ADNI,AD,x1,Siemens\n'
        "sub/b.nii,Three,val,001,AIBL,CN,,GE\n"
        "d.npy,Four,TEST,,AIBL,,,\n"
    )
    reading = read_scan_table(write(folder / "t.csv", content))
    (train,), (validation,), (test,) = (reading.splits[split] for split in ("train", "validation", "test"))
    assert train == ScanRecord(
        "x1", NiftiFile(folder / "a.nii.gz"), "One, two", "ADNI 001",
        cohort="ADNI", diagnosis=Diagnosis.DEMENTIA, questions=(ask_diagnosis(Diagnosis.DEMENTIA),),
    )  # fmt: skip
    assert train.truth == {"scanner": "Siemens"}
    assert (validation.id, validation.case, validation.cohort) == ("sub/b.nii", "AIBL 001", "AIBL")
    assert (test.image, test.case, test.diagnosis) == (NpyFile(folder / "d.npy"), "d.npy", None)
    assert reading.notes == ["1 scans name no subject; each counts as one of its own."]
    assert reading.skipped == []


def test_rows_of_one_path_are_one_scan_with_questions(folder: Path) -> None:
    content = (
        "path\treport\tsubject\tquestion\tanswer\tquestion_type\n"
        f"a.nii.gz\tOne.\ts1\t{DIAGNOSIS_QUESTION.upper()}\tdementia\t\n"
        "a.nii.gz\t\t\tWhich structure has shrunk?\tthe left  hippocampus\tstructure\n"
        "a.nii.gz\tOne.\ts1\tIs it a man?\tyes\t\n"
        "a.nii.gz\tOne.\ts1\tIs it a man?\tyes\t\n"
        "sub/b.nii\tTwo.\ts2\tIs it a man?\t\tsex\n"
    )
    reading = read_scan_table(write(folder / "t.tsv", content))
    first, second = reading.splits["train"]
    assert first.questions == (
        ask_diagnosis(Diagnosis.DEMENTIA),
        Question("structure", "Which structure has shrunk?", "the left hippocampus"),
        Question("other", "Is it a man?", "yes"),
    )
    assert (first.diagnosis, first.caption, second.questions) == (Diagnosis.DEMENTIA, "One.", ())
    assert reading.notes == ["1 questions without an answer, or answers without one, were left out."]


def test_jsonl(folder: Path) -> None:
    rows = [
        {"path": "a.nii.gz", "report": "One. The diagnosis is control.", "subject": 7},
        {"path": "d.npy", "report": "Two.", "subject": 8, "question": "Sex?", "answer": "male"},
    ]
    path = write(folder / "t.jsonl", "\n".join(json.dumps(row) for row in rows))
    assert is_scan_table(path)
    first, second = scans(path)
    assert (first.case, first.diagnosis) == ("7", Diagnosis.NOT_DEMENTED)
    assert second.questions == (Question("other", "Sex?", "male"),)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("A man. The diagnosis is dementia.", ("A man.", ["dementia"])),
        ("A man, the diagnosis is Alzheimer's disease", ("A man", ["Alzheimer's disease"])),
        ("The final diagnosis is: MCI. He sleeps well.", ("He sleeps well.", ["MCI"])),
        ("The diagnosis is AD.", ("", ["AD"])),
        ("The differential diagnosis is broad.", ("The differential diagnosis is broad.", [])),
        ("No diagnosis was made.", ("No diagnosis was made.", [])),
    ],
)
def test_the_sentence_with_the_diagnosis_is_cut_out(report: str, expected: tuple[str, list[str]]) -> None:
    assert cut_diagnosis(report) == expected


def test_unknown_and_contradicting_diagnoses_are_counted_and_the_scans_kept(folder: Path) -> None:
    content = (
        "path,report,subject,diagnosis\n"
        "a.nii.gz,One. The diagnosis is uncertain.,1,\n"
        "sub/b.nii,Two. The diagnosis is AD.,2,CN\n"
        "c.nii.gz,Three.,3,Parkinson\n"
        "d.npy,Four. The diagnosis is AD.,4,dementia\n"
    )
    path = write(folder / "t.csv", content)
    assert [record.diagnosis for record in scans(path)] == [None, None, None, Diagnosis.DEMENTIA]
    assert [record.caption for record in scans(path)] == ["One.", "Two.", "Three.", "Four."]
    assert read_scan_table(path).notes == [
        "3 scans carry a diagnosis that is none of the known ones ('uncertain', 'CN / AD', 'Parkinson'); they were "
        "kept without a diagnosis."
    ]


REMEDY = "convert it to .nii.gz, or give .npy or a folder of DICOM slices"


def test_bad_rows_are_skipped_with_reasons(folder: Path) -> None:
    (folder / "e.mgz").write_bytes(b"x")
    content = (
        "path,report,subject,split\n"
        "a.nii.gz,One.,1,train\n"
        "absent.nii.gz,Two.,2,train\n"
        ",Three.,3,train\n"
        "e.mgz,Four.,4,train\n"
        "c.nii.gz,The diagnosis is AD.,5,test\n"
        "d.npy,,6,test\n"
        "sub/b.nii,Six,7,train,more\n"
    )
    reading = read_scan_table(write(folder / "t.csv", content))
    assert [record.id for record in reading.splits["train"]] == ["a.nii.gz"]
    reasons = {
        ("train", "t.csv line 4", "no scan named"),
        ("train", "sub/b.nii", "line 8 has 5 cells, the header 4: quote the caption"),
        ("train", "absent.nii.gz", f"scan 'absent.nii.gz' not found in {folder}"),
        ("train", "e.mgz", f"'e.mgz' is no volume by its name: {REMEDY}"),
        ("test", "c.nii.gz", "the report says nothing beside the diagnosis"),
        ("test", "d.npy", "empty report"),
    }
    assert set(reading.skipped) == {SkippedRecord(*reason) for reason in reasons}  # type: ignore[arg-type]


def test_all_faults_are_told_at_once(folder: Path) -> None:
    content = (
        "path,report,subject,split,question,answer\n"
        "a.nii.gz,One.,1,train,Sex?,male\n"
        "a.nii.gz,Another.,1,train,Sex?,female\n"
        "sub/b.nii,Two.,1,test,,\n"
        "c.nii.gz,Three.,2,train,,\n"
        "d.npy,Four.,2,validation,,\n"
    )
    with pytest.raises(DataFault) as caught:
        read_scan_table(write(folder / "t.csv", content))
    assert caught.value.faults == (
        "t.csv: rows of a.nii.gz differ in report (lines 2 and 3): let all rows of a scan say the same.",
        "t.csv: rows of a.nii.gz differ in the answer to 'Sex?' (lines 2 and 3): let all rows of a scan say the same.",
    )


def test_a_subject_in_two_splits_is_refused_or_dropped_from_train(folder: Path) -> None:
    rows = "a.nii.gz,One.,1,train\nsub/b.nii,Two.,1,test\nc.nii.gz,Three.,2,train\nd.npy,Four.,3,validation\n"
    path = write(folder / "t.csv", "path,report,subject,split\n" + rows)
    with pytest.raises(DataFault) as caught:
        load_data(str(path))
    assert caught.value.faults == (
        f"{path}: 1 subjects have scans in more than one split (1): give all scans of a subject one split, or name no "
        "splits, and they are cut by whole subjects, or set drop_shared_cases: true to drop them from train.",
    )
    data = load_data(str(path), drop_shared_cases=True)
    assert ids(data) == [["c.nii.gz"], ["d.npy"], ["sub/b.nii"]]
    assert data.dropped == [SkippedRecord("train", "a.nii.gz", "test has its case 1 too")]


def test_the_same_number_in_two_cohorts_is_two_subjects(folder: Path) -> None:
    content = "path,report,subject,cohort,split\na.nii.gz,One.,1,ADNI,train\nsub/b.nii,Two.,1,AIBL,test\n"
    reading = read_scan_table(write(folder / "t.csv", content))
    assert [record.case for records in reading.splits.values() for record in records] == ["ADNI 1", "AIBL 1"]


def test_many_faults_are_cut_short(folder: Path) -> None:
    rows = [f"{number % 13}.nii,report {number},s{number % 13}" for number in range(26)]
    with pytest.raises(DataFault) as caught:
        read_scan_table(write(folder / "t.csv", "path,report,subject\n" + "\n".join(rows)))
    assert len(caught.value.faults) == 11
    assert caught.value.faults[-1] == "... and 3 more"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path,caption\nx/a.nii.gz,One\n", True),
        ("path,report\na.png,One\n", False),
        ("path,report\nsome_name,One\n", False),
        ("path,caption\nsome_name,One\n", False),
        ("path,report\nfile_without_suffix,One\n", False),
        ("path,report\nscan.hdr,One\n", True),
        ("path,caption\nsub,One\n", True),  # a folder: DICOM
        ("a.nii.gz\tOne\n", True),
        ("file_name,caption\n,One\nb.NPY,Two\n", True),
        ("name,report\nb.npy,Two\n", False),
        ("", False),
    ],
)
def test_what_counts_as_a_table_of_scans(folder: Path, content: str, expected: bool) -> None:
    write(folder / "file_without_suffix", "it may be an image")
    assert is_scan_table(write(folder / "t.csv", content)) is expected


def test_a_table_of_images_is_still_one(folder: Path, draw_image: DrawImage) -> None:
    rows = [f"{draw_image(folder / f'{number}.png', number).name},report {number}\n" for number in range(30)]
    path = write(folder / "t.csv", "path,report\n" + "".join(rows))
    assert load_data(str(path)).kind == "table of image paths and captions"


@pytest.mark.parametrize("content", ["a.nii.gz,One\n", "a.nii.gz\tOne\tTwo\n", "a.nii.gz;One\n"])
def test_without_a_header_only_the_published_form_is_read(folder: Path, content: str) -> None:
    path = write(folder / "t.csv", content)
    with pytest.raises(DataFault, match=r"t.csv has no header: give it a first line with the names of its columns"):
        load_data(str(path))


def test_a_table_without_reports_names_what_it_needs(folder: Path) -> None:
    path = write(folder / "t.csv", "path,diagnosis\na.nii.gz,AD\n")
    with pytest.raises(DataFault, match=r"column for the report \(accepted: report, caption, captions, text, find"):
        load_data(str(path))


def test_splits_are_cut_by_whole_subjects(folder: Path) -> None:
    rows = ["path,report,subject"]
    for number in range(40):
        np.save(folder / f"{number}.npy", number_voxels())
        rows.append(f"{number}.npy,Report {number}.,p{number // 4}")
    data = load_data(str(write(folder / "t.csv", "\n".join(rows))))
    cases = [{record.case for record in records} for records in data.splits.values()]
    assert [len(records) for records in data.splits.values()] == [32, 4, 4]
    assert sum(map(len, cases)) == 10
    assert data.kind == "table of scans and reports"
    assert data.notes == [
        "There is no test split: 4 scans were cut from train, by whole subjects, by seed 0.",
        "There is no validation split: 4 scans were cut from train, by whole subjects, by seed 0.",
    ]


def test_dicom_folders_need_their_reader_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder / "t.csv", "path,report,subject\nsub,One,1\n")
    monkeypatch.setattr(files, "require_dicom_reader", lambda: None)
    assert scans(path)[0].image == DicomSeries(folder / "sub")

    def refuse() -> None:
        raise DataFault("no reader")

    monkeypatch.setattr(files, "require_dicom_reader", refuse)
    with pytest.raises(DataFault, match="no reader"):
        read_scan_table(path)
