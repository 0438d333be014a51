"""LiveCodeBench's records become tasks; nothing in a record is ever unpickled."""

import base64
import gzip
import json
import os
import pickle
import re
import zlib

import huggingface_hub
import pytest

import common
from benchmarks import files, livecodebench
from common import InputError
from sandbox import Sandbox, check_task

STDIN = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
CALLS = [{"input": "[1, 2]\n3", "output": "[6]", "testtype": "functional"}]
STARTER = "class Solution:\n    def add(self, xs: List[int], y: int) -> List[int]:\n        "


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def record(**fields) -> dict:
    row = {
        "question_title": "Add Two",
        "question_content": "Add.",
        "platform": "atcoder",
        "question_id": "abc001_a",
        "contest_id": "abc001",
        "contest_date": "2024-03-02T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(STDIN),
        "private_test_cases": "[]",
        "metadata": "{}",
    }
    return row | fields


def called(**fields) -> dict:
    row = {"question_id": "3000", "starter_code": STARTER, "platform": "leetcode"}
    tests = {"public_test_cases": json.dumps(CALLS), "metadata": json.dumps({"func_name": "add"})}
    return record(**(row | tests | fields))


def make(tmp_path, *rows, **flags):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return livecodebench.make(livecodebench.Config("", input=[str(path)], **flags))["test"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("length", [0, 300, 70_000])
def test_private_tests_are_read_after_the_public_ones(tmp_path, protocol, length):
    private = [{"input": "é" * length, "output": "4\n", "testtype": "stdin"}]
    text = packed(pickle.dumps(json.dumps(private, ensure_ascii=False), protocol))
    plain, pickled = (
        make(tmp_path, record(private_test_cases=field))[0] for field in (json.dumps(private), text)
    )
    assert plain == pickled
    tests = [{"input": "1 2\n", "output": "3\n"}, {"input": "é" * length, "output": "4\n"}]
    assert plain["style"] == "stdio" and plain["tests"] == tests


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    "value", [Harm(), ["[]", Harm()], ["[]"], {"[]": "[]"}, b"[]", os.getcwd, None, 3, ("[]", "[]")]
)
def test_a_pickle_of_anything_but_a_string_is_refused_and_not_run(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        row = record(private_test_cases=packed(pickle.dumps(value, protocol)))
        with pytest.raises(InputError, match=r"test.jsonl:1: task abc001_a: .* a pickle "):
            make(tmp_path, row)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "field",
    [
        {"private_test_cases": "not base64!"},
        {"private_test_cases": base64.b64encode(b"not compressed").decode()},
        {"private_test_cases": packed(b"not a pickle")},
        {"private_test_cases": packed(pickle.dumps("[]")[:-3])},
        {"private_test_cases": packed(pickle.dumps("{"))},
        {"public_test_cases": "[3]"},
        {"public_test_cases": '[{"input": "1"}]'},
        {"metadata": "[]"},
        {"contest_date": "soon"},
    ],
)
def test_a_damaged_record_is_one_line_with_its_place(tmp_path, field):
    with pytest.raises(InputError, match=r"test.jsonl:2: task abc001_b: not a record") as raised:
        make(tmp_path, record(), record(question_id="abc001_b", **field))
    assert "\n" not in str(raised.value)


def test_a_functional_task_calls_the_method_with_one_value_a_line(tmp_path):
    (task,) = make(tmp_path, called())
    check_task(task)
    assert (task["style"], task["entry_point"]) == ("call", "Solution.add")
    assert task["tests"] == [{"args": [[1, 2], 3], "output": [6]}]
    programs = {
        # Names of the harness' header: List, Counter, cache.
        STARTER + "return [sum(Counter(xs).elements()) + y]": "passed",
        STARTER + "return (sum(xs) + y,)": "passed",  # a tuple counts as a list
        STARTER + "return [sum(xs)]": "failed",
        STARTER + "return [sum(xs) + z]": "error",
        "def add(xs, y): return [sum(xs) + y]": "passed",  # as the harness: no class, so a function
        "def plus(xs, y): return [sum(xs) + y]": "error",
        "class Solution: pass\n\ndef add(xs, y): return [sum(xs) + y]": "error",
    }
    with Sandbox() as sandbox:
        verdicts = sandbox.judge([(task, program) for program in programs])
    assert [verdict["status"] for verdict in verdicts] == list(programs.values())


def test_a_program_finds_the_names_of_the_header(tmp_path):
    (task,) = make(tmp_path, record())
    programs = {
        "print(sum(map(int, sys.stdin.readline().split())))": "passed",
        "print(reduce(operator.add, map(int, input().split())))": "passed",
        "print(gcd(6, 9)); assert sys.getrecursionlimit() == 50000": "passed",
        "print(4)": "failed",
        "assert len(str(10**49_999)) == 50_000; print(3)": "passed",
        "print(3); str(10**50_000)": "error",  # longer integers than the harness writes
    }
    with Sandbox() as sandbox:
        verdicts = sandbox.judge([(task, program) for program in programs])
    assert [verdict["status"] for verdict in verdicts] == list(programs.values())


def test_tasks_come_in_the_order_of_their_ids_with_what_a_report_groups_by(tmp_path, capsys):
    rows = [
        record(question_id="abc311_c"),
        called(question_title="Find the Peaks", difficulty="hard"),
        record(question_id="abc100_b", contest_date="2024-05-01T00:00:00"),
    ]
    tasks = make(tmp_path, *rows)
    assert [task["task_id"] for task in tasks] == ["3000", "abc100_b", "abc311_c"]
    assert tasks[0]["meta"] == {
        "split": "test",
        "platform": "leetcode",
        "difficulty": "hard",
        "date": "2024-03-02T00:00:00",
        "starter_code": STARTER,
        "errata": "several right outputs",
    }
    assert "errata" not in tasks[1]["meta"]
    assert tasks[2]["meta"]["errata"] == "several right outputs"
    assert "lists 2 tasks: 3000 abc311_c" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("window", "kept"),
    [
        ({}, "abc"),
        ({"start_date": "2024-02-01"}, "bc"),
        ({"end_date": "2024-02-01"}, "ab"),  # the harness counts the day's beginning
        ({"start_date": "2024-01-02", "end_date": "2024-02-29"}, "b"),
    ],
)
def test_a_date_window_keeps_the_contests_in_it(tmp_path, window, kept):
    days = {"a": "2024-01-01T00:00:00", "b": "2024-02-01T00:00:00", "c": "2024-03-01T12:00:00"}
    rows = [record(question_id=name, contest_date=date) for name, date in days.items()]
    assert "".join(task["task_id"] for task in make(tmp_path, *rows, **window)) == kept


def test_a_bad_or_empty_date_window_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--start_date must be YYYY-MM-DD, got '1"):
        make(tmp_path, record(), start_date="1.2.24")
    with pytest.raises(InputError, match="no task with tests has its contest between"):
        make(tmp_path, record(), start_date="2030-01-01")


def test_a_record_without_tests_is_left_out_and_named(tmp_path, capsys):
    path = tmp_path / "test.jsonl"
    rows = [record(), record(question_id="abc002_a", public_test_cases="[]")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    livecodebench.main(livecodebench.Config(str(tmp_path / "out"), input=[str(path)]))
    assert json.loads((tmp_path / "out/left_out.jsonl").read_text()) == {
        "task_id": "abc002_a",
        "reason": "no tests",
    }
    assert len((tmp_path / "out/test.jsonl").read_text().splitlines()) == 1
    assert "1 tasks are left out, and count in no mean: abc002_a (no tests)" in (
        capsys.readouterr().out
    )


def test_a_record_with_more_tests_than_the_sandbox_takes_is_left_out(tmp_path, monkeypatch):
    long = json.dumps([{"input": "1" * 2_100_000, "output": "1", "testtype": "stdin"}])
    rows = [record(), record(question_id="abc002_a", public_test_cases=long)]
    assert len(make(tmp_path, *rows)) == 2
    monkeypatch.setattr(files.sandbox, "MAX_MESSAGE", 4 << 20)
    path = str(tmp_path / "test.jsonl")
    _, left_out = livecodebench.make_with_left_out(livecodebench.Config("", input=[path]))
    assert left_out == {"abc002_a": "2 MiB of tests, more than 2"}


def test_a_prompt_that_asks_for_reasoning_shows_the_starter_code(tmp_path):
    (task,) = make(tmp_path, called())
    files.ask_to_think(task)
    assert task["prompt"].startswith(f"Add.\n\nThe program begins like this:\n\n{STARTER.rstrip()}")
    assert task["prompt"].endswith("between <answer> and </answer>.\n")


@pytest.mark.parametrize(
    ("release", "names"),
    [("release_v1", ["test"]), ("release_v3", ["test", "test2", "test3"])],
)
def test_a_release_is_the_first_files_of_the_hub(tmp_path, monkeypatch, release, names):
    asked = []

    def download(repository, file, repo_type):
        asked.append((repository, file, repo_type))
        (tmp_path / file).write_text(json.dumps(record(question_id=file)) + "\n")
        return str(tmp_path / file)

    monkeypatch.setattr(files, "hf_hub_download", download)
    tasks = livecodebench.make(livecodebench.Config("", release=release))["test"]
    hub = "livecodebench/code_generation_lite"
    assert asked == [(hub, f"{name}.jsonl", "dataset") for name in names]
    assert [task["task_id"] for task in tasks] == [f"{name}.jsonl" for name in names]


@pytest.mark.parametrize(
    "error",
    [
        huggingface_hub.errors.LocalEntryNotFoundError("no connection\nat all"),
        huggingface_hub.errors.EntryNotFoundError("404"),
        OSError("no space left"),
    ],
)
def test_without_the_hub_one_line_says_which_file_to_put_where(monkeypatch, error):
    def download(*arguments, **more):
        raise error

    monkeypatch.setattr(files, "hf_hub_download", download)
    with pytest.raises(InputError) as raised:
        livecodebench.make(livecodebench.Config("", release="release_v1"))
    text = str(raised.value)
    assert "put test.jsonl of https://huggingface.co/datasets/livecodebench/" in text
    assert "--input test.jsonl" in text and "\n" not in text


@pytest.mark.parametrize("name", ["nowhere.jsonl", "folder/nowhere.jsonl", "./a/b.jsonl", "/a/b/c"])
def test_a_name_that_is_no_file_of_the_hub_is_not_asked_for(monkeypatch, name):
    monkeypatch.setattr(files, "hf_hub_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match="no such file, and no file of the hub"):
        files.fetch(name)


# Of the programs that pass all tests in the record, these import numpy.
NUMPY = {"abc341_c", "abc384_f"}
# The harness' own faults: it reads open(0) from its own input, and does not wait for threads.
HARNESS = {"abc315_b", "abc349_a", "abc359_b", "abc365_b", "abc368_f", "abc382_c"}


@pytest.mark.slow
def test_recorded_verdicts_on_the_public_tests_are_ours(benchmark_data, tmp_path):
    folder = benchmark_data / "public_samples" / "lcb"

    def rows_of(name):
        with gzip.open(folder / name, "rt", encoding="utf-8") as file:
            return {row["question_id"]: row for row in map(json.loads, file)}

    records = []
    for row in rows_of("public_tests_v6.jsonl.gz").values():
        names = re.findall(r"def (\w+)\(", row["starter_code"])
        metadata = json.dumps({"func_name": names[-1]} if names else {})
        records.append(record(**row, metadata=metadata))
    tasks = {task["task_id"]: task for task in make(tmp_path, *records)}
    assert len(tasks) == 1054  # abc350_c has no public test
    samples = [row for name, row in rows_of("o1mini_codes.jsonl.gz").items() if name in tasks]
    assert len(samples) == 879
    samples = samples[:: int(os.environ.get("LIVECODEBENCH_STEP", 4))]  # 1: all, some two minutes
    with Sandbox(workers=2) as sandbox:
        verdicts = sandbox.judge([(tasks[s["question_id"]], s["code_list"][0]) for s in samples])
    passed_there, failed_there = set(), set()  # with another verdict here
    for sample, verdict in zip(samples, verdicts, strict=True):
        name, passed = sample["question_id"], verdict["status"] == "passed"
        failing = json.loads(sample["metadata"][0]).get("inputs")
        if sample["graded_list"][0] and not passed:
            passed_there.add(name)
        is_public = any(failing == test.get("input") for test in tasks[name]["tests"])
        if not sample["graded_list"][0] and is_public and passed:
            failed_there.add(name)
    judged = {sample["question_id"] for sample in samples}
    assert (passed_there, failed_there) == (NUMPY & judged, HARNESS & judged)


def test_the_tasks_file_is_one_that_the_stages_read(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(record()) + "\n" + json.dumps(called()) + "\n")
    livecodebench.main(livecodebench.Config(str(tmp_path / "out"), input=[str(path)]))
    rows = common.read_jsonl(tmp_path / "out/test.jsonl", common.PROMPT_FIELDS, check_task)
    assert [row["task_id"] for row in rows] == ["3000", "abc001_a"]
