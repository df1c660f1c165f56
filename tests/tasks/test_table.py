"""Files as spreadsheets, libraries and file managers leave them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvr.tasks import Pools
from rlvr.tasks.csv_table import read_csv
from rlvr.tasks.table import files_of, read_local
from rlvr.types import UserError

Load = Callable[..., Pools]
ROWS = [{"question": "One, two?", "answer": "3"}, {"question": "Wie groß?", "answer": "4"}]


def csv_of(separator: str = ",") -> str:
    return pd.DataFrame(ROWS).to_csv(index=False, sep=separator)


FILES: dict[str, tuple[str, bytes]] = {
    "semicolons": ("a.csv", csv_of(";").encode()),
    "tabs": ("a.csv", csv_of("\t").encode()),
    "tabs by name": ("a.tsv", csv_of("\t").encode()),
    "Excel's own line": ("a.csv", f"sep=;\r\n{csv_of(';')}".encode()),
    "Excel's own line with a tab": ("a.csv", b"sep=\t\r\n" + csv_of("\t").encode()),
    "Excel's own line, quoted": ("a.csv", f'"sep=;"\n{csv_of(";")}'.encode()),
    "Excel's own line, old Mac": ("a.csv", f"sep=;\n{csv_of(';')}".replace("\n", "\r").encode()),
    "lines before the header": ("a.csv", f"\n\r\n{csv_of()}".encode()),
    "UTF-16": ("a.csv", csv_of("\t").encode("utf-16")),
    "UTF-32": ("a.csv", csv_of().encode("utf-32")),
    "byte-order mark": ("a.csv", csv_of().encode("utf-8-sig")),
    "capitals": ("A.CSV", csv_of().encode()),
    "old Mac": ("a.csv", csv_of().replace("\n", "\r").encode()),
    "CRLF": ("a.csv", csv_of().replace("\n", "\r\n").encode()),
    "empty columns": ("a.csv", "".join(f"{line},,\n" for line in csv_of().splitlines()).encode()),
    "cells beyond the header": ("a.csv", csv_of().replace(",3\n", ",3,,\n").encode()),
    "spaces in the header": ("a.csv", csv_of().replace("answer", " answer ").encode()),
    "an index": ("a.csv", pd.DataFrame(ROWS).to_csv().encode()),
    "ndjson with a mark": (
        "a.ndjson",
        pd.DataFrame(ROWS).to_json(orient="records", lines=True).replace("\n", "\r\n").encode("utf-8-sig"),
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_they_are_read(case: str, tmp_path: Path) -> None:
    name, data = FILES[case]
    (tmp_path / name).write_bytes(data)
    rows = [{key: str(row[key]) for key in ("question", "answer")} for row in read_local(tmp_path / name)]
    assert rows == ROWS and "" not in read_local(tmp_path / name)[0]


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\n" + "a" * 200_000 + ",1\n")
    assert len(read_local(tmp_path / "a.csv")[0]["question"]) == 200_000


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a.xlsx", b"PK", r"cannot read files of kind '\.xlsx'.*: save the sheet as CSV UTF-8"),
        ("a.csv.gz", b"\x1f\x8b", r"cannot read files of kind '\.gz'.*: unpack it"),
        ("a.csv", b"PK\x03\x04\x14\0\x06\0", "an Excel sheet or a zip file, whatever its name: save the sheet as CSV"),
        ("a.csv", b"\x1f\x8b\x08\0\0\0", "compressed with gzip, whatever its name: unpack it"),
        ("a.jsonl", b"\x1f\x8b\x08\0\0\0", "compressed with gzip, whatever its name: unpack it"),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel sheet, whatever its name: save it as CSV UTF-8"),
        ("a.json", b"PAR1\x15\0", "a Parquet file, whatever its name: name it .parquet"),
        ("a.csv", "question,answer\na,1\n".encode("utf-16-le"), "null characters, as UTF-16 without its mark"),
        ("a.csv", "question,answer\nwie groß?,1".encode("latin-1"), r"is not UTF-8 \(byte 23\): save it as UTF-8"),
        ("a.csv", b"question;answer\na;b;c\n", "line 2: 3 values for 2 columns: .* hold a semicolon"),
        ("a.jsonl", b'{"question": "a", "x": %s}\n' % (b"9" * 4400), "a.jsonl line 1: not valid JSON here"),
        ("a.jsonl", b'{"x": %s}\n' % (b"[" * 99_000 + b"]" * 99_000), "a.jsonl line 1: not valid JSON here"),
        ("a.json", b"[" * 99_000 + b"]" * 99_000, "a.json: not valid JSON here"),
        ("a.json", b'{"question": "a"}\n{"question": "b"}\n', "for one object per line, name the file .jsonl"),
        ("a.arrow", b"x", "is not an Arrow file that can be read"),
    ],
)
def test_or_one_message_says_what_to_do(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_local(tmp_path / name)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60), kind=st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet", "arrow"]))
def test_any_bytes_are_read_or_refused(data: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(data)
    try:
        read_local(path)
    except UserError as error:
        assert str(path) in str(error)


cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=5), st.sampled_from(",;\t"))
def test_what_a_spreadsheet_quotes_comes_back(rows: list[tuple[str, str]], separator: str) -> None:
    frame = pd.DataFrame(rows, columns=["question", "answer"])
    text = frame.to_csv(index=False, sep=separator, quoting=1, lineterminator="\r\n")
    assert [(row["question"], row["answer"]) for row in read_csv(text, Path("a.csv"))] == rows


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("data/train-00000-of-00002.csv", "data/train-00001-of-00002.csv", "data/test-00000-of-00001.csv"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(csv_of())
        (tmp_path / "README.md").write_text("a card")
        (tmp_path / "dataset_infos.json").write_text("{}")
        return tmp_path

    def names(self, path: Path, split: str | None = None) -> list[str]:
        return [str(file.relative_to(path)) for file in files_of(path, split)]

    def test_a_snapshot_of_the_hub_has_its_splits(self, folder: Path) -> None:
        assert self.names(folder, "train") == ["data/train-00000-of-00002.csv", "data/train-00001-of-00002.csv"]
        assert self.names(folder, "test") == ["data/test-00000-of-00001.csv"]
        with pytest.raises(UserError, match="no files of the split 'dev'; it has those of test, train"):
            files_of(folder, "dev")

    def test_files_beside_each_other_come_before_folders(self, folder: Path) -> None:
        (folder / "mine.csv").write_text(csv_of())
        assert self.names(folder, "train") == ["mine.csv"]

    def test_hidden_files_and_folders_are_passed_over(self, tmp_path: Path) -> None:
        for name in ("._mine.csv", "~$mine.csv", ".cache/a.csv"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"\x00\x05\xff")
        (tmp_path / "mine.csv").write_text(csv_of())
        (tmp_path / "other.csv").mkdir()
        assert self.names(tmp_path) == ["mine.csv"]

    def test_a_folder_named_like_a_table_is_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "mine.csv").mkdir()
        (tmp_path / "mine.csv/part.csv").write_text(csv_of())
        assert self.names(tmp_path) == ["mine.csv/part.csv"]
        assert len(read_local(tmp_path / "mine.csv")) == 2

    def test_a_data_set_saved_by_datasets(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        saved = datasets.Dataset.from_list(ROWS)
        saved.save_to_disk(str(tmp_path / "one"))
        datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(str(tmp_path / "both"))
        assert read_local(tmp_path / "one") == ROWS
        assert read_local(tmp_path / "both", "test") == ROWS


class TestSplits:
    def files(self) -> None:
        for name, first in (("train", 0), ("test", 50)):
            rows = [{"question": f"{i}?", "answer": i} for i in range(first, first + 9)]
            Path("data/raw/set").mkdir(exist_ok=True)
            pd.DataFrame(rows).to_csv(f"data/raw/set/{name}.csv", index=False)

    def test_of_a_local_folder_are_its_files(self, load: Load) -> None:
        self.files()
        columns = {"columns__working": None, "columns__level": None}
        pools = load("data/raw/set", evaluation_split="test", **columns)
        assert {p.answer for p in pools.training} == {str(i) for i in range(9)}
        assert {p.answer for p in pools.evaluation or []} == {str(i) for i in range(50, 59)}
        warnings = load("data/raw/set", **columns).origin["warnings"]
        assert warnings == ["data/raw/set: the split train is its files alone; not in it: test.csv"]

    def test_of_one_file_are_refused(self, load: Load) -> None:
        self.files()
        with pytest.raises(UserError, match=r"evaluation_split 'test' is a split of a hub data set.*set it to null"):
            load("data/raw/set/train.csv", evaluation_split="test", columns__working=None, columns__level=None)


class TestDvc:
    def test_a_table_that_dvc_does_not_know_is_named(self, load: Load) -> None:
        Path("data/raw/mine.csv").write_text(csv_of())
        columns = {"columns__working": None, "columns__level": None}
        assert load(**columns).origin["warnings"] == []
        Path(".dvc").mkdir()
        (warning,) = load(**columns).origin["warnings"]
        assert re.search(r"queued experiments will not find it. Run `dvc add data/raw/mine\.csv`", warning)
        Path("data/raw/mine.csv.dvc").write_text("")
        assert load(**columns).origin["warnings"] == []

    def test_one_that_is_missing_says_how_to_bring_it(self, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("data/raw/mine.csv.dvc").write_text("")
        with pytest.raises(UserError, match="not in this clone: run `dvc pull`"):
            load()
        queued = Path(".dvc/tmp/exps/standalone")
        queued.mkdir(parents=True)
        monkeypatch.chdir(queued)
        with pytest.raises(UserError, match="a queued experiment, which has only the files that git or DVC tracks"):
            load()
