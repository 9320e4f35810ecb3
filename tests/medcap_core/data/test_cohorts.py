"""Small files of the cohorts' published form, written here, become tables of scans."""

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from medcap_core.data.cohorts import COHORTS, CohortScans, describe_visit, find_cohort_scans, write_scan_table
from medcap_core.data.cohorts.__main__ import main
from medcap_core.data.cohorts.clinical import ScanKey, Visit, find_visit, read_age, read_date, read_mmse, read_sex
from medcap_core.data.scans.records import Diagnosis
from medcap_core.data.sources import load_data
from medcap_core.data.sources.scan_tables import read_scan_table
from medcap_core.errors import DataFault
from tests.support.volume_writing import number_voxels

NOT_DEMENTED, MCI, DEMENTIA = Diagnosis

ADNIMERGE = (
    '"RID","COLPROT","PTID","SITE","VISCODE","EXAMDATE","DX_bl","AGE","PTGENDER","MMSE","DX","Month"\n'
    '"295","ADNI1","002_S_0295","2","bl","2006-04-18","CN","84.8","Male","28","CN","0"\n'
    '"295","ADNI1","002_S_0295","2","m06","2006-11-02","CN","84.8","Male","","","6"\n'
    '"295","ADNI1","002_S_0295","2","m12","2007-05-25","CN","84.8","Male","26","MCI","12"\n'
    '"413","ADNI1","002_S_0413","2","bl","2006-05-02","CN","76.3","Female","NA","NL","0"\n'
    '"413","ADNI1","002_S_0413","2","m24","2008-05-05","CN","76.3","Female","24","MCI to Dementia","24"\n'
)
UDS = (
    "NACCID,NACCADC,PACKET,VISITMO,VISITDAY,VISITYR,NACCVNUM,SEX,NACCAGE,NACCMMSE,NACCUDSD\n"
    "NACC000011,1,I,5,20,2010,1,2,71,29,1\n"
    "NACC000011,1,F,5,25,2011,2,2,72,95,2\n"
    "NACC000011,1,F,6,1,2012,3,2,73,24,3\n"
    "NACC000023,1,I,1,7,2009,1,1,80,-4,4\n"
)
NACC_MRI = (
    "NACCID,NACCADC,MRIMO,MRIDY,MRIYR,NACCMRFI,NACCMNUM\n"
    "NACC000011,1,7,1,2012,mri777.zip,1\n"
    "NACC000011,1,7,1,2019,mri778.zip,2\n"
)
OASIS1 = (
    "ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay\n"
    "OAS1_0001_MR1,F,R,74,2,3,29,0,1344,0.743,1.306,N/A\n"
    "OAS1_0003_MR1,F,R,73,4,3,27,0.5,1454,0.708,1.207,N/A\n"
    "OAS1_0004_MR1,M,R,28,,,,,1588,0.803,1.105,N/A\n"
)
OASIS2 = (
    "Subject ID,MRI ID,Group,Visit,MR Delay,M/F,Hand,Age,EDUC,SES,MMSE,CDR,eTIV,nWBV,ASF\n"
    "OAS2_0001,OAS2_0001_MR1,Nondemented,1,0,M,R,87,14,2,27,0,1987,0.696,0.883\n"
    "OAS2_0002,OAS2_0002_MR2,Demented,2,560,M,R,76,12,,28,0.5,1738,0.713,1.010\n"
    "OAS2_0018,OAS2_0018_MR1,Converted,1,0,F,R,87,14,1,30,0,1406,0.715,1.248\n"
    "OAS2_0018,OAS2_0018_MR3,Converted,3,489,F,R,88,14,1,29,0.5,1398,0.713,1.255\n"
)
OASIS3_D1 = (
    "OASISID,OASIS_session_label,days_to_visit,age at visit,"
    "NORMCOG,DEMENTED,MCIAMEM,MCIAPLUS,MCINON1,MCINON2,IMPNOMCI\n"
    "OAS30001,OAS30001_UDSd1_d0000,0,65.1,1,0,,,,,\n"
    "OAS30001,OAS30001_UDSd1_d0722,722,67.1,0,0,1.0,0,0,0,0\n"
    "OAS30003,OAS30003_UDSd1_d0100,100,70.5,0,0,0,0,0,0,1\n"
)
OASIS3_B4 = (
    "OASISID,OASIS_session_label,days_to_visit,age at visit,MMSE,memory,CDRSUM,CDRTOT,dx1\n"
    "OAS30001,OAS30001_UDSb4_d0000,0,65.1,29,0,0,0,Cognitively normal\n"
    "OAS30001,OAS30001_UDSb4_d0722,722,67.1,27,0.5,0.5,0.5,uncertain dementia\n"
    "OAS30002,OAS30002_UDSb4_d0400,400,,17,2,8,1,AD Dementia\n"
    "OAS30003,OAS30003_UDSb4_d0100,100,70.5,28,0.5,0.5,0.5,0.5 in memory only\n"
)
OASIS3_SUBJECTS = "OASISID,Subject_accession,AgeatEntry,GENDER,EDUC\nOAS30001,x,65.1,2,12\nOAS30002,y,70.0,1,16\n"
AIBL_DX = (
    "RID,SITEID,VISCODE,DXNORM,DXNODEP,DXMCI,DXAD,DXCURREN\n"
    "2,1,bl,1,1,-4,-4,1\n2,1,m18,-4,-4,1,-4,2\n3,1,bl,-4,-4,-4,1,3\n4,1,bl,-4,-4,-4,-4,-4\n"
)
AIBL_DEMOG = "RID,SITEID,VISCODE,PTGENDER,PTDOB\n2,1,bl,2,/1931\n3,1,bl,1,/1928\n"
AIBL_MMSE = "RID,SITEID,VISCODE,EXAMDATE,MMSCORE\n2,1,bl,11/23/2006,30\n2,1,m18,05/28/2008,27\n3,1,bl,12/05/2006,-4\n"
AIBL_MRI = "RID,SITEID,VISCODE,EXAMDATE,MMSMPRAGE\n2,1,bl,01/15/2007,1\n2,1,m18,-4,1\n"
MIRIAD = (
    '"MR ID","Subject","Age","Group","M/F"\n'
    '"miriad_199_1_MR_1","miriad_199","67.4","HC","F"\n'
    '"miriad_199_1_MR_2","miriad_199","67.4","HC","F"\n'
    '"miriad_188_10_MR_1","miriad_188","61","AD","M"\n'
)


def build(folder: Path, tables: dict[str, str], volumes: list[str]) -> tuple[list[Path], Path]:
    """The tables in `folder`, and small volumes below `folder/images`."""
    for name, content in tables.items():
        (folder / name).write_text(content, encoding="utf-8")
    for name in volumes:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [folder / name for name in tables], folder / "images"


def describe(found: CohortScans, images: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The report of each volume with a visit, and the reason of each without one."""
    reports = {path.relative_to(images).as_posix(): describe_visit(visit) for path, visit in found.scans}
    return reports, {path.relative_to(images).as_posix(): reason for path, reason in found.unmatched}


def say(who: str, mmse: int | None = None, diagnosis: str | None = None) -> str:
    score = f" The Mini-Mental State Examination score is {mmse} of 30." if mmse else ""
    return f"The subject is a {who}.{score}" + (f" The diagnosis is {diagnosis}." if diagnosis else "")


def test_adni(tmp_path: Path) -> None:
    date = "MP-RAGE/{}_08_20_30.0/I1/ADNI_x_Br_20111231235959123_S1_I1.nii"
    volumes = [
        "ADNI/002_S_0295/" + date.format("2006-04-20"),
        "ADNI/002_S_0295/" + date.format("2006-12-24"),  # nearer to m06, which has no diagnosis, and 152 days from m12
        "ADNI/002_S_0295/" + date.format("2016-04-20"),
        "ADNI/002_S_0413/MP-RAGE/loose.nii",
        "ADNI/002_S_9999/" + date.format("2006-04-20"),
        "sub-ADNI002S0413/ses-M024/anat/scan_T1w.nii.gz",
        "sub-ADNI002S0413/ses-M048/anat/scan_T1w.nii.gz",
        "readme/scan.nii",
    ]
    tables, images = build(tmp_path, {"ADNIMERGE.csv": ADNIMERGE}, volumes)
    reports, reasons = describe(find_cohort_scans("adni", tables, images), images)
    assert reports == {
        volumes[0]: say("man of 84 years", 28, "not demented"),
        volumes[1]: say("man of 85 years", 26, "mild cognitive impairment"),
        volumes[5]: say("woman of 78 years", 24, "dementia"),
    }
    assert reasons == {
        volumes[2]: "subject 002_S_0295 has no visit within 180 days of this scan",
        volumes[3]: "the path does not tell which of the 2 visits of subject 002_S_0413 it belongs to",
        volumes[4]: "subject 002_S_9999 is not in the table",
        volumes[6]: "session M048 of subject 002_S_0413 is not in the table",
        volumes[7]: "its path names no subject",
    }


def test_nacc(tmp_path: Path) -> None:
    volumes = ["mri777/series/a.nii.gz", "mri778/a.nii", "NACC000023/a.nii", "NACC000011/a.nii"]
    tables, images = build(tmp_path, {"uds.csv": UDS, "mri.csv": NACC_MRI}, volumes)
    reports, reasons = describe(find_cohort_scans("nacc", tables, images), images)
    assert reports == {
        "NACC000023/a.nii": say("man of 80 years", diagnosis="dementia"),
        "mri777/series/a.nii.gz": say("woman of 73 years", 24, "mild cognitive impairment"),
    }
    assert reasons == {
        "NACC000011/a.nii": "the path does not tell which of the 3 visits of subject NACC000011 it belongs to",
        "mri778/a.nii": "subject NACC000011 has no visit within 365 days of this scan",
    }
    second = [visit for visit in COHORTS["nacc"].read(tables)[0] if visit.age_years == 72]
    assert [(visit.diagnosis, visit.mmse) for visit in second] == [(None, None)]  # impaired, but not MCI; 95: not done
    with pytest.raises(DataFault, match="the tables given hold no visit of NACC"):
        find_cohort_scans("nacc", tables[1:], images)


def test_oasis1(tmp_path: Path) -> None:
    volumes = [
        f"disc1/OAS1_{number}_MR1/RAW/OAS1_{number}_MR1_mpr-1_anon.nii" for number in ("0001", "0003", "0004", "0005")
    ]
    tables, images = build(tmp_path, {"oasis_cross-sectional.csv": OASIS1}, volumes)
    found = find_cohort_scans("oasis1", tables, images)
    assert [(visit.subject, visit.diagnosis, visit.mmse) for _, visit in found.scans] == [
        ("OAS1_0001", NOT_DEMENTED, 29), ("OAS1_0003", DEMENTIA, 27), ("OAS1_0004", None, None)
    ]  # fmt: skip
    assert describe_visit(found.scans[2][1]) == say("man of 28 years")
    assert describe(found, images)[1] == {volumes[3]: "subject OAS1_0005 is not in the table"}


def test_oasis2(tmp_path: Path) -> None:
    volumes = [f"{name}/mpr-1.nii.gz" for name in ("OAS2_0001_MR1", "OAS2_0002_MR2", "OAS2_0018_MR1", "OAS2_0018_MR3")]
    tables, images = build(tmp_path, {"oasis_longitudinal.csv": OASIS2}, volumes)
    found = find_cohort_scans("oasis2", tables, images)
    diagnoses = [(visit.subject, visit.diagnosis) for _, visit in found.scans]
    assert diagnoses == [
        ("OAS2_0001", NOT_DEMENTED), ("OAS2_0002", DEMENTIA), ("OAS2_0018", NOT_DEMENTED), ("OAS2_0018", DEMENTIA)
    ]  # fmt: skip
    assert Counter(visit.diagnosis for _, visit in found.scans) == {NOT_DEMENTED: 2, DEMENTIA: 2}


def test_oasis3(tmp_path: Path) -> None:
    volumes = [
        "sub-OAS30001/ses-d0129/anat/sub-OAS30001_ses-d0129_T1w.nii.gz",
        "OAS30001_MR_d0757/anat1/a_T1w.nii.gz",
        "OAS30002_MR_d0371/anat1/a_T1w.nii.gz",
        "OAS30003_MR_d0100/anat1/a_T1w.nii.gz",
        "OAS30001_MR_d2430/anat1/a_T1w.nii.gz",
    ]
    contents = {"d1.csv": OASIS3_D1, "b4.csv": OASIS3_B4, "demo.csv": OASIS3_SUBJECTS}
    tables, images = build(tmp_path, contents, volumes)
    reports, reasons = describe(find_cohort_scans("oasis3", tables, images), images)
    assert reports == {
        volumes[0]: say("woman of 65 years", 29, "not demented"),
        volumes[1]: say("woman of 67 years", 27, "mild cognitive impairment"),
        volumes[2]: say("man of 71 years", 17, "dementia"),
        volumes[3]: say("person of 70 years", 28),
    }
    assert reasons == {volumes[4]: "subject OAS30001 has no visit within 365 days of this scan"}
    without_d1 = find_cohort_scans("oasis3", tables[1:], images, "*_T1w.nii.gz")
    assert [visit.diagnosis for _, visit in without_d1.scans] == [None, DEMENTIA, None, NOT_DEMENTED]


def test_aibl(tmp_path: Path) -> None:
    volumes = [
        "AIBL/2/MPRAGE/2007-02-01_14_29_50.0/I1/AIBL_2_MR_MPRAGE_br_raw_20110101000000000_1_S1_I1.nii",
        "AIBL/2/MPRAGE/2008-05-20_14_29_50.0/I2/a.nii",
        "sub-AIBL3/ses-M000/anat/sub-AIBL3_ses-M000_T1w.nii.gz",
        "AIBL/4/loose.nii",
    ]
    contents = {"aibl_pdxconv.csv": AIBL_DX, "demog.csv": AIBL_DEMOG, "mmse.csv": AIBL_MMSE, "mri.csv": AIBL_MRI}
    tables, images = build(tmp_path, contents, volumes)
    reports, reasons = describe(find_cohort_scans("aibl", tables, images), images)
    assert reports == {
        volumes[0]: say("woman of 76 years", 30, "not demented"),
        volumes[1]: say("woman of 77 years", 27, "mild cognitive impairment"),
        volumes[2]: say("man of 78 years", diagnosis="dementia"),
    }
    assert reasons == {volumes[3]: "subject 4 is not in the table"}  # its only code is -4
    with pytest.raises(DataFault, match="AIBL needs its table of diagnoses, aibl_pdxconv_"):
        find_cohort_scans("aibl", tables[1:], images)


def test_miriad(tmp_path: Path) -> None:
    volumes = ["miriad_199_HC_F_01_MR_2.nii", "188/miriad_188_AD_M_10_MR_1.nii.gz", "miriad_199_HC_F_02_MR_1.nii"]
    tables, images = build(tmp_path, {"miriad.csv": MIRIAD}, volumes)
    reports, reasons = describe(find_cohort_scans("miriad", tables, images), images)
    assert reports == {
        volumes[0]: say("woman of 67 years", diagnosis="not demented"),
        volumes[1]: say("man of 61 years", diagnosis="dementia"),
    }
    assert reasons == {volumes[2]: "session 2_MR_1 of subject 199 is not in the table"}


def test_the_table_written_is_one_that_is_read(tmp_path: Path) -> None:
    tables, images = build(tmp_path, {"ADNIMERGE.csv": ADNIMERGE}, [])
    names = []
    for month, subject in (("000", "0295"), ("012", "0295"), ("000", "0413"), ("024", "0413")):
        path = images / f"sub-ADNI002S{subject}" / f"ses-M{month}" / "a_T1w.npy"
        path.parent.mkdir(parents=True)
        np.save(path, number_voxels())
        names.append(path.relative_to(tmp_path).as_posix())
    write_scan_table(find_cohort_scans("adni", tables, images), tmp_path / "scans.csv")
    lines = (tmp_path / "scans.csv").read_text().splitlines()
    assert lines[0] == "path,report,cohort,subject"
    assert lines[3] == f"{names[2]},The subject is a woman of 76 years. The diagnosis is not demented.,ADNI,002_S_0413"
    reading = read_scan_table(tmp_path / "scans.csv").splits["train"]
    assert [(record.id, record.diagnosis, record.case, record.cohort) for record in reading] == [
        (names[0], NOT_DEMENTED, "ADNI 002_S_0295", "ADNI"),
        (names[1], MCI, "ADNI 002_S_0295", "ADNI"),
        (names[2], NOT_DEMENTED, "ADNI 002_S_0413", "ADNI"),
        (names[3], DEMENTIA, "ADNI 002_S_0413", "ADNI"),
    ]
    (tmp_path / "elsewhere").mkdir()
    write_scan_table(find_cohort_scans("adni", tables, images), tmp_path / "elsewhere" / "scans.csv")
    absolute = read_scan_table(tmp_path / "elsewhere" / "scans.csv").splits["train"]
    assert [record.image for record in absolute] == [record.image for record in reading]


def test_a_visit_without_anything_known_still_has_a_report() -> None:
    assert describe_visit(Visit("1")) == say("person")


def test_visits_in_days_prefer_those_with_a_diagnosis() -> None:
    visits = [Visit("1", day=10), Visit("1", day=40, diagnosis=MCI), Visit("1", day=45, diagnosis=DEMENTIA), Visit("1")]
    assert find_visit(ScanKey("1", day=12), visits, 30) is visits[1]
    assert find_visit(ScanKey("1", day=12), visits, 27) is visits[0]
    assert find_visit(ScanKey("1", day=43), visits, 30) is visits[2]
    assert find_visit(ScanKey("1"), visits[:1], 0) is visits[0]


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (read_date, {"2006-04-18": 732419, "4/18/2006": 732419, "04/18/2006 08:20": 732419, "2006-02-30": None}),
        (read_date, {"-4": None}),
        (read_mmse, {"0": 0, "30": 30, "24.0": 24, "88": None, "-4": None, "95": None, "": None, "x": None}),
        (read_age, {"71.6": 71.6, "0": None, "888": None, "-4": None, "nan": None}),
        (read_sex, {"F": "female", "2": "female", "2.0": "female", "Male": "male", "1": "male", "-4": None, "": None}),
    ],
)
def test_cells(read: object, values: dict[str, object]) -> None:
    assert {text: read(text) for text in values} == values  # type: ignore[operator]


@pytest.mark.parametrize("name", COHORTS)
def test_every_example_path_names_a_subject(tmp_path: Path, name: str) -> None:
    contents = {
        "adni": ADNIMERGE, "nacc": NACC_MRI.replace("mri777", "mri1234"), "oasis1": OASIS1, "oasis2": OASIS2,
        "oasis3": OASIS3_B4, "aibl": AIBL_DX, "miriad": MIRIAD,
    }  # fmt: skip
    tables, _ = build(tmp_path, {"t.csv": contents[name]}, [])
    assert COHORTS[name].read(tables)[1](PurePosixPath(COHORTS[name].example.split(" (")[0])) is not None


def test_faults_name_the_remedy(tmp_path: Path) -> None:
    tables, images = build(tmp_path, {"t.csv": ADNIMERGE, "x.csv": "a,b\n1,2\n"}, ["other/scan.nii"])
    with pytest.raises(DataFault, match="'adnii' is no cohort known here; choose one of adni, nacc, oasis1"):
        find_cohort_scans("adnii", tables, images)
    with pytest.raises(DataFault) as caught:
        find_cohort_scans("adni", [tmp_path / "no.csv"], tmp_path / "nowhere")
    assert [fault.split(": ")[1] for fault in caught.value.faults] == [
        "give a CSV table of the cohort by --table.", "give the folder of the volumes by --images."
    ]  # fmt: skip
    with pytest.raises(DataFault, match=r"x.csv is no table of ADNI that is known here: none of its columns is PTID"):
        find_cohort_scans("adni", tables, images)
    with pytest.raises(DataFault, match=r"none of its 1 volumes belongs to a visit of ADNI; scan.nii: its path"):
        find_cohort_scans("adni", tables[:1], images)
    with pytest.raises(DataFault, match=r"holds no volume .* with a name like '\*T1w\*'; check --images and --only"):
        find_cohort_scans("adni", tables[:1], images, "*T1w*")
    (tmp_path / "t.csv").write_text("PTID,VISCODE,DX\n002_S_0295,bl,CN\n")
    with pytest.raises(DataFault, match=r"has no column for the date \(accepted: examdate\)"):
        find_cohort_scans("adni", tables[:1], images)
    with pytest.raises(DataFault, match=r"(?s)t.csv has no column for the date .*x.csv is no table of ADNI"):
        find_cohort_scans("adni", tables, images)


def test_the_command_line(tmp_path: Path) -> None:
    names = ["miriad_199_HC_F_01_MR_1.nii", *(f"miriad_{number}_HC_F_01_MR_1.nii" for number in range(1, 8))]
    _, images = build(tmp_path, {"miriad.csv": MIRIAD}, names)
    app = Typer()
    app.command()(main)
    arguments = ["miriad", "--table", str(tmp_path / "miriad.csv"), "--images", str(images)]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "scans.csv")])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        f"Looking for volumes in {images}",
        f"1 scans of 1 subjects (1 not demented; 0 without a diagnosis) written to {tmp_path / 'scans.csv'}",
        "7 volumes left out:",
    ]
    assert lines[-1] == "  ... and 2 more"
    assert len(read_scan_table(tmp_path / "scans.csv").splits["train"]) == 1
    for wrong, message in (
        ([*arguments, "--out", str(tmp_path / "no" / "scans.csv")], "does not exist; make it first."),
        (["miriat", *arguments[1:], "--out", str(tmp_path / "x.csv")], "error: 'miriat' is no cohort known here"),
    ):
        done = CliRunner().invoke(app, wrong)
        assert done.exit_code == 2
        assert message in done.stderr


def test_a_whole_cohort_is_read_as_data(tmp_path: Path) -> None:
    rows = [MIRIAD.splitlines()[0]]
    for number in range(200, 220):
        np.save(tmp_path / f"miriad_{number}_HC_F_01_MR_1.npy", number_voxels())
        rows.append(f'"miriad_{number}_1_MR_1","miriad_{number}","70","{"AD" if number % 2 else "HC"}","F"')
    (tmp_path / "miriad.csv").write_text("\n".join(rows))
    write_scan_table(find_cohort_scans("miriad", [tmp_path / "miriad.csv"], tmp_path), tmp_path / "scans.csv")
    data = load_data(str(tmp_path / "scans.csv"))
    assert [len(records) for records in data.splits.values()] == [16, 2, 2]
