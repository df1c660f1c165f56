"""The user's own data: every kind of file, the mapping of columns, filters, and what is wrong said with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value
from pyarrow import parquet as pq

from rlvr.tasks import Pools, table
from rlvr.types import Problem, UserError

ROOT = Path(__file__).parent.parent.parent
ROWS = [{"question": f"Question {i}?", "answer": i, "working": f"It is {i}.", "level": i % 3 + 1} for i in range(12)]
Load = Callable[..., Pools]


def write(path: str, rows: list[dict[str, Any]] = ROWS) -> str:
    kind = Path(path).suffix
    if kind == ".jsonl":
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == ".json":
        Path(path).write_text(json.dumps(rows))
    elif kind == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


def by_id(problems: list[Problem] | None) -> dict[str, Problem]:
    assert problems is not None
    return {p.id: p for p in problems}


class TestFiles:
    @pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
    def test_every_kind_gives_the_same_problems(self, kind: str, load: Load) -> None:
        pools = load(write(f"data/raw/mine.{kind}"))
        assert by_id(pools.training) == {
            f"row-{i + 1}": Problem(f"row-{i + 1}", f"Question {i}?", str(i), f"It is {i}.", i % 3 + 1)
            for i in range(12)
        }
        assert pools.evaluation is None
        assert pools.origin["rows"] == 12 and pools.origin["left_out"] == {} and pools.origin["warnings"] == []

    def test_a_folder_is_all_of_its_files(self, load: Load) -> None:
        write("data/raw/a.csv", ROWS[:4])
        write("data/raw/b.jsonl", ROWS[4:])
        Path("data/raw/notes.txt").write_text("not data")
        pools = load("data/raw")
        assert {p.answer for p in pools.training} == {str(i) for i in range(12)}
        assert set(pools.origin["files"]) == {"data/raw/a.csv", "data/raw/b.jsonl"}

    def test_the_order_is_the_seeds(self, load: Load) -> None:
        write("data/raw/mine.csv")
        assert load() == load()
        assert load().training != load(seed=1).training
        assert [p.id for p in load().training] != [f"row-{i + 1}" for i in range(12)]

    def test_quoted_values_keep_commas_and_line_breaks(self, load: Load) -> None:
        text = '\ufeffquestion,answer,working,level\r\n"One, two\nthree?","1,200",ok,1\r\n\r\nnext?,2,ok,1\r\n'
        Path("data/raw/mine.csv").write_bytes(text.encode())
        found = by_id(load().training)
        assert (found["row-1"].question, found["row-1"].answer) == ("One, two\nthree?", "1,200")
        assert found["row-2"].question == "next?"

    def test_a_line_separator_inside_a_text_ends_no_line(self, load: Load) -> None:
        row = {**ROWS[0], "question": "one\u2028two"}
        Path("data/raw/mine.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
        assert load("data/raw/mine.jsonl").training[0].question == "one\u2028two"

    def test_files_elsewhere_are_hashed_and_hinted_at(self, load: Load, tmp_path: Path) -> None:
        (tmp_path / "else").mkdir()
        path = write(str(tmp_path / "else" / "mine.csv"))
        origin = load(path).origin
        assert re.fullmatch("[0-9a-f]{64}", origin["files"][path])
        (warning,) = origin["warnings"]
        assert "is outside data/raw" in warning and "dvc add" in warning


# file, content, what the message says
BROKEN: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("mine.csv", None, r"mine\.csv does not exist: give a file \(\.jsonl, \.json, \.csv, \.parquet\)"),
    "another kind": ("mine.xlsx", b"x", r"mine\.xlsx: cannot read files of kind '\.xlsx'; use one of \.jsonl"),
    "empty csv": ("mine.csv", b"", r"mine\.csv holds no rows"),
    "header alone": ("mine.csv", b"question,answer\n", r"mine\.csv holds no rows"),
    "empty jsonl": ("mine.jsonl", b"\n\n", r"mine\.jsonl holds no rows"),
    "empty json": ("mine.json", b"", r"mine\.json holds no rows"),
    "not utf-8": ("mine.csv", "question,answer\nwie groß?,1".encode("latin-1"), r"mine\.csv is not UTF-8 \(byte 23\)"),
    "bad line": (
        "mine.jsonl",
        b'{"question": "a", "answer": 1}\n\n{"question"\n',
        r"mine\.jsonl line 3: not valid JSON",
    ),
    "a list on a line": ("mine.jsonl", b"[1]\n", r"mine\.jsonl line 1: must be an object such as .*found \[1\]"),
    "bad json": ("mine.json", b'[{"a": 1},\n{"a" 2}]', r"mine\.json line 2: not valid JSON"),
    "json that is no list": ("mine.json", b'{"question": 1}', r"mine\.json must be a list of objects"),
    "too many values": (
        "mine.csv",
        b"question,answer\na,1\nb, or c,2\n",
        r"mine\.csv line 3: 3 values for 2 columns: put values .* in \"quotes\"",
    ),
    "too few values": ("mine.csv", b"question,answer\na\n", r"mine\.csv line 2: 1 values for 2 columns"),
    "open quote": ("mine.csv", b'question,answer\n"a,1\n', r"mine\.csv line 2: not valid CSV"),
    "a column twice": ("mine.csv", b"answer,answer\n1,2\n", r"mine\.csv: the header names a column twice"),
    "not parquet": ("mine.parquet", b"PAR2", r"mine\.parquet is not a Parquet file that can be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_clear_message(case: str, load: Load) -> None:
    name, content, message = BROKEN[case]
    if content is not None:
        Path(f"data/raw/{name}").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(f"data/raw/{name}", columns__working=None, columns__level=None)


def test_a_folder_without_tables(load: Load) -> None:
    with pytest.raises(UserError, match=r"the folder data/raw holds no table \(\.jsonl"):
        load("data/raw")


class TestMemory:
    def test_a_table_that_grows_when_read_is_refused(self, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        """50 KB of Parquet whose rows are 20 GB of text."""
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 1_000_000]))
        pq.write_table(pa.table({"question": texts, "answer": texts}), "bomb.parquet")
        monkeypatch.setattr(table, "free_memory", lambda: 2**30)
        with pytest.raises(UserError, match=r"bomb\.parquet needs more than 0\.5 GiB of memory to read"):
            load("bomb.parquet")

    @pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
    def test_a_text_that_is_larger_than_the_memory_is_refused(
        self, kind: str, load: Load, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Path(f"long.{kind}").open("wb") as file:
            file.write(b"question,answer\n")
            file.seek(2**30)
            file.write(b"\n")
        monkeypatch.setattr(table, "free_memory", lambda: 2**30)
        with pytest.raises(UserError, match=rf"long\.{kind} (needs more than 0\.5 GiB|holds null characters)"):
            load(f"long.{kind}")

    def test_null_characters_are_seen_before_the_file_is_read(self, load: Load) -> None:
        with Path("nulls.csv").open("wb") as file:
            file.truncate(2**40)
        with pytest.raises(UserError, match="holds null characters"):
            load("nulls.csv")


class TestColumns:
    def test_they_are_mapped(self, load: Load) -> None:
        rows = [{"Frage": "q", "Ergebnis": "Paris", "Weg": "so", "Stufe": 4.0}]
        write("data/raw/mine.csv", rows)
        names = {"columns__question": "Frage", "columns__answer": "Ergebnis", "columns__working": "Weg"}
        assert load(**names, columns__level="Stufe").training == [Problem("row-1", "q", "Paris", "so", 4)]

    def test_working_and_level_may_be_absent(self, load: Load) -> None:
        write("data/raw/mine.csv", [{"question": "q", "answer": "a"}])
        found = load(columns__working=None, columns__level=None).training
        assert found == [Problem("row-1", "q", "a", "", 1)]

    @pytest.mark.parametrize("key", ["question", "answer", "working", "level"])
    def test_one_that_is_missing_is_named_with_those_that_exist(self, key: str, load: Load) -> None:
        write("data/raw/mine.csv")
        with pytest.raises(UserError) as caught:
            load(**{f"columns__{key}": f"{key}s"})
        assert str(caught.value) == (
            f"prepare.records.columns.{key}: data/raw/mine.csv has no column '{key}s'; "
            f"it has question, answer, working, level; did you mean {key}?"
        )

    ANSWERS = (
        (4, "4"), (4.0, "4"), ("4.0", "4.0"), (2.50, "2.5"), ("1,234", "1,234"), (-3, "-3"), (0.1, "0.1"),
        (1e20, "1" + "0" * 20), (1e-7, "0.0000001"), (" Paris ", "Paris"), ("$12", "$12"), ("x = 3", "x = 3"),
        ("007", "007"), ("3.10", "3.10"), ("+5", "+5"), ("1,250.00", "1,250.00"), ("02134", "02134"),
    )  # fmt: skip

    @pytest.mark.parametrize("value, answer", ANSWERS)
    def test_answers_stay_as_they_are_written(self, value: Any, answer: str, load: Load) -> None:
        assert load(write("data/raw/mine.jsonl", [{**ROWS[0], "answer": value}])).training[0].answer == answer

    def test_numbers_of_single_precision_are_read_as_their_shortest_text(self, load: Load) -> None:
        answers = pd.Series([8.1, 0.3, 1e-4, 16777216, 3.5], dtype="float32")
        table = pd.DataFrame({"question": [f"Q{i}?" for i in range(5)], "answer": answers, "working": "w", "level": 1})
        Path("data/raw").mkdir(parents=True, exist_ok=True)
        table.to_parquet("data/raw/mine.parquet")
        found = [p.answer for p in sorted(load("data/raw/mine.parquet").training, key=lambda p: p.id)]
        assert found == ["8.1", "0.3", "0.0001", "16777216", "3.5"]

    @pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
    @pytest.mark.parametrize("kind", [pa.float32(), pa.float16()], ids=str)
    def test_short_floats_are_read_as_they_are_written_wherever_they_stand(
        self, kind: pa.DataType, suffix: str, load: Load
    ) -> None:
        values = [8.1, None, 0.3]
        table = pa.table({
            "question": ["a", "b", "c"],
            "answer": pa.array([[value, 2] for value in values], pa.list_(kind)),
            "plain": pa.array(values, kind),
            "deep": pa.array([{"x": [value], "y": "z"} for value in values],
                             pa.struct([("x", pa.large_list(kind)), ("y", pa.string())])),
        })  # fmt: skip
        path = f"data/raw/mine{suffix}"
        if suffix == ".parquet":
            pq.write_table(table, path)
        else:
            with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        problems = by_id(load(path, columns__working=None, columns__level=None).training)
        assert [problems[f"row-{i}"].golds for i in (1, 2, 3)] == [("8.1", "2"), ("2",), ("0.3", "2")]
        assert [problems[f"row-{i}"].columns["plain"] for i in (1, 2, 3)] == values
        assert problems["row-1"].columns["deep"] == {"x": [8.1], "y": "z"}

    def test_whole_numbers_beside_a_gap_stay_whole(self, load: Load) -> None:
        """A gap makes pandas hold 7 as 7.0."""
        rows = [{**ROWS[0], "answer": value} for value in (7, None, 9)]
        pools = load(write("data/raw/mine.parquet", rows))
        assert sorted(p.answer for p in pools.training) == ["7", "9"]
        assert pools.origin["left_out"] == {"empty question or answer": 1}

    def test_rows_without_question_or_answer_are_left_out_and_counted(self, load: Load) -> None:
        empty = [{**ROWS[0], "question": " "}, {**ROWS[1], "answer": None}, {**ROWS[2], "answer": ""}]
        pools = load(write("data/raw/mine.jsonl", [*empty, *ROWS[3:], {"question": "no answer", "level": 1}]))
        assert len(pools.training) == 9 and pools.origin["left_out"] == {"empty question or answer": 4}

    def test_nothing_left_is_refused(self, load: Load) -> None:
        write("data/raw/mine.jsonl", [{**ROWS[0], "answer": ""}])
        with pytest.raises(UserError, match=r"none of the 1 rows is left \(left out: \{'empty question or answer'"):
            load("data/raw/mine.jsonl")


class TestFilters:
    PASSED: tuple[tuple[dict[str, Any], set[int]], ...] = (
        ({"n": {"min": 3}}, {3, 4, 5}),
        ({"n": {"max": 2.5}}, {0, 1, 2}),
        ({"n": {"min": 2, "max": 3}}, {2, 3}),
        ({"n": {"in": [1, "5.0", 9]}}, {1, 5}),
        ({"kind": {"in": ["a"]}}, {0, 2, 4}),
        ({"kind": {"in": ["a"]}, "n": {"min": 1}}, {2, 4}),
        ({"note": {"not_empty": True}}, {0, 1, 2}),
        ({"note": {"min": 0}}, {0, 1, 2}),
        ({}, set(range(6))),
    )

    @pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
    @pytest.mark.parametrize("filters, passed", PASSED)
    def test_rows_pass(self, filters: dict[str, Any], passed: set[int], kind: str, load: Load) -> None:
        more = [{"n": i, "kind": "ab"[i % 2], "note": 5 if i < 3 else None} for i in range(6)]
        write(f"data/raw/mine.{kind}", [row | extra for row, extra in zip(ROWS, more, strict=False)])
        pools = load(f"data/raw/mine.{kind}", filters=filters)
        assert {int(p.answer) for p in pools.training} == passed
        assert sum(pools.origin["left_out"].values()) == 6 - len(passed)
        assert set(pools.origin["left_out"]) <= {f"filters.{name}" for name in filters}

    def test_a_column_that_does_not_exist(self, load: Load) -> None:
        write("data/raw/mine.csv")
        with pytest.raises(UserError, match=r"prepare\.records\.filters\.levle: .*did you mean level\?"):
            load(filters={"levle": {"min": 1}})

    def test_a_bound_on_a_text(self, load: Load) -> None:
        write("data/raw/mine.csv")
        with pytest.raises(UserError, match=r"mine\.csv row 1: prepare\.records\.filters\.working compares numbers"):
            load(filters={"working": {"min": 1}})


class TestEvaluation:
    def test_a_second_file_is_held_out(self, load: Load) -> None:
        write("data/raw/mine.csv", ROWS[:8])
        write("data/raw/exam.jsonl", ROWS[8:])
        pools = load(evaluation_source="data/raw/exam.jsonl")
        assert {p.answer for p in pools.training} == {str(i) for i in range(8)}
        assert {p.id: p.answer for p in pools.evaluation or []} == {f"evaluation-{i}": str(7 + i) for i in range(1, 5)}
        assert set(pools.origin["evaluation"]["files"]) == {"data/raw/exam.jsonl"}

    def test_its_columns_are_checked_too(self, load: Load) -> None:
        write("data/raw/mine.csv")
        write("data/raw/exam.csv", [{"question": "q", "anwser": 1, "working": "w", "level": 1}])
        with pytest.raises(UserError, match=r"data/raw/exam\.csv has no column 'answer'; .*did you mean anwser\?"):
            load(evaluation_source="data/raw/exam.csv")


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def load_dataset(name: str, subset: str | None, *, split: str, revision: str) -> Any:
            calls.append((name, subset, split, revision))
            return Dataset.from_list(ROWS)

        api = SimpleNamespace(dataset_info=lambda name: SimpleNamespace(sha=f"newest of {name}"))
        monkeypatch.setattr("datasets.load_dataset", load_dataset)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
        return calls

    def test_one_split(self, hub: list[Any], load: Load) -> None:
        pools = load("me/sums", subset="easy", split="all", revision="f00")
        assert hub == [("me/sums", "easy", "all", "f00")]
        assert len(pools.training) == 12 and pools.evaluation is None and pools.origin["warnings"] == []

    def test_two_splits_are_of_one_commit(self, hub: list[Any], load: Load) -> None:
        pools = load("me/sums", evaluation_split="test")
        newest = "newest of me/sums"
        assert hub == [("me/sums", None, "train", newest), ("me/sums", None, "test", newest)]
        assert pools.origin["warnings"] == [
            f"prepare.records.revision is null, so the newest commit {newest} was used; write it there"
        ]

    def test_two_data_sets_have_a_revision_each(self, hub: list[Any], load: Load) -> None:
        pools = load("me/sums", revision="f00", evaluation_source="me/exam", evaluation_split="test")
        assert hub == [("me/sums", None, "train", "f00"), ("me/exam", None, "test", "newest of me/exam")]
        (warning,) = pools.origin["warnings"]
        assert warning.startswith("prepare.records.evaluation_revision is null")
        assert pools.origin["evaluation"]["revision"] == "newest of me/exam"

    @pytest.mark.parametrize("kind", ["float32", "float16"])
    def test_numbers_of_single_precision_are_read_as_their_shortest_text(
        self, kind: str, load: Load, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = [8.1, 0.3, 3.5, None, 0.1]
        rows = {"question": [f"{i}?" for i in range(5)], "answer": answers, "working": ["w"] * 5, "level": [1] * 5}
        words = {"question": Value("string"), "working": Value("string"), "level": Value("int64")}
        found = Dataset.from_dict(rows, features=Features({**words, "answer": Value(kind)})).select([4, 2, 1, 0, 3])
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: found)
        pools = load("me/sums", revision="f00")
        answer_of = {problem.question: problem.answer for problem in pools.training}
        assert answer_of == {"0?": "8.1", "1?": "0.3", "2?": "3.5", "4?": "0.1"}


def test_the_example_holds_what_it_says(load: Load) -> None:
    """Every equation in a working is true, and the last one gives the answer."""
    problems = load(str(ROOT / "examples/records/unit_conversions.csv")).training
    assert len(problems) == 60
    assert len({p.question for p in problems}) == 60
    for p in problems:
        equations = re.findall(r"(-?[\d.]+(?: [-+*/] [\d.]+)+) = (-?\d+(?:\.\d+)?)", p.working)
        assert equations, p
        for left, right in equations:
            assert evaluate(left.split()) == Fraction(right), p
        assert Fraction(equations[-1][1]) == Fraction(p.answer), p


def evaluate(parts: list[str]) -> Fraction:
    """Left to right; a working mixes no operators of different strength."""
    value = Fraction(parts[0])
    for sign, number in zip(parts[1::2], map(Fraction, parts[2::2]), strict=True):
        value = {"+": value + number, "-": value - number, "*": value * number, "/": value / number}[sign]
    return value
