"""Samples and their verdicts, kept as they come: what is judged again, and what is not."""

import gzip
import json
from pathlib import Path

import pytest

import common
import eval as evaluation
import sandbox
from benchmarks import exports
from common import InputError

RIGHT, WRONG, BASE_ONLY = (f"def f(x):\n    return {body}\n" for body in ("x + 1", "3", "2"))


@pytest.fixture
def submitted(monkeypatch):
    """The programs that the sandbox is given, each with the number of its tests."""
    programs, submit = [], sandbox.Sandbox.submit

    def spy(self, task, program):
        programs.append((program, len(task["tests"])))
        return submit(self, task, program)

    monkeypatch.setattr(sandbox.Sandbox, "submit", spy)
    return programs


@pytest.fixture
def run(tmp_path):
    """Evaluates programs, by task; returns the report."""
    task, tests = {"prompt": "p", "entry_point": "f", "style": "call"}, [{"args": [1], "output": 2}]
    tasks = [
        task | {"task_id": name, "tests": [*tests, {"args": [x], "output": x + 1}]}
        for name, x in (("a", 4), ("b", 5))
    ]

    def evaluate(rows=None, folder="run", tasks=tasks, name="samples.jsonl", **flags):
        common.write_jsonl(tmp_path / "tasks.jsonl", tasks)
        if rows is not None:
            rows = [{"task_id": t, "completion": p} for t, p in rows]
            opened = gzip.open if name.endswith(".gz") else open
            with opened(tmp_path / name, "wt", encoding="utf-8") as file:
                file.writelines(map(common.json_line, rows))
        config = evaluation.Config(
            str(tmp_path / "tasks.jsonl"),
            str(tmp_path / folder),
            samples=str(tmp_path / name),
            **flags,
        )
        evaluation.main(config)
        return json.loads((tmp_path / folder / "report.json").read_text())

    evaluate.tasks, evaluate.folder = tasks, tmp_path
    return evaluate


ROWS = [("a", RIGHT), ("a", WRONG), ("b", WRONG), ("b", WRONG), ("b", RIGHT)]
PROGRAMS = [(RIGHT, 2), (WRONG, 2)]


def test_another_k_a_longer_file_and_another_folder_judge_nothing_again(run, submitted):
    report = run(ROWS[:3])
    assert submitted == [*PROGRAMS, (WRONG, 2)] and report["pass@1"] == 0.25
    report = run(k=[1, 2], sandbox_workers=2)
    assert report["pass@2"] == 1 and report["pass@2_tasks"] == 1 and len(submitted) == 3
    report = run(ROWS, k=[1, 2])  # equal programs of a task share a verdict
    assert submitted[3:] == [(RIGHT, 2)] and report["samples"] == 5
    verdicts = common.read_jsonl(run.folder / "run" / "verdicts.jsonl", {"status": str})
    statuses = ["passed", "failed", "failed", "failed", "passed"]
    assert [row["status"] for row in verdicts] == statuses and "key" not in verdicts[0]
    copy = run.folder / "run" / "samples.jsonl"
    copy.write_bytes((run.folder / "samples.jsonl").read_bytes())
    again = run(folder="other", name="run/samples.jsonl", k=[1, 2])
    assert again == report and len(submitted) == 4
    assert run([*ROWS, ("b", RIGHT)], k=[1, 2])["samples"] == 6  # the file alone is another one


def test_a_killed_evaluation_judges_the_rest_alone(run, submitted, monkeypatch):
    count, line = [0], common.verdicts.json_line

    def killed(row):
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return line(row)

    monkeypatch.setattr("common.verdicts.json_line", killed)
    with pytest.raises(KeyboardInterrupt):
        run(ROWS)
    kept = run.folder / "run" / "verdicts-0.progress"
    assert kept.read_text().count("\n") == 2
    with open(kept, "a") as file:
        file.write('{"key": "abc", "status"')  # the line that the kill has torn
    monkeypatch.setattr("common.verdicts.json_line", line)
    del submitted[:]
    report = run()
    assert len(submitted) == 2 and report["status"] == {"failed": 3, "passed": 2}
    rows = [json.loads(text) for text in kept.read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows) == 4


def test_what_decides_a_verdict_is_judged_anew(run, submitted):
    run(ROWS[:3])
    changed = [task | {"tests": task["tests"][1:]} for task in run.tasks]
    run(folder="changed", tasks=changed)
    assert len(submitted) == 6
    assert run(folder="slower", sandbox_timeout=9.0)["samples"] == 3
    assert len(submitted) == 9


def test_a_sample_without_a_verdict_is_asked_for_again(run, monkeypatch, capsys):
    judge = sandbox.judge_repeatedly

    def broken(worker, task, program):
        verdict = judge(worker, task, program)
        return verdict | {"status": "harness_error"} if program == RIGHT else verdict

    monkeypatch.setattr(sandbox, "judge_repeatedly", broken)
    report = run(ROWS, k=[1, 2])
    assert report["status"] == {"failed": 3, "harness_error": 2}
    assert report["pass@2"] == 0 and report["pass@2_tasks"] == 1  # task a has one verdict
    assert "2 samples have no verdict; the same command asks again" in capsys.readouterr().out
    monkeypatch.setattr(sandbox, "judge_repeatedly", judge)
    report = run(k=[1, 2])
    assert report["status"] == {"failed": 3, "passed": 2} and report["pass@2_tasks"] == 2
    with pytest.raises(SystemExit):
        run(k=[1, 2])  # complete; nothing to do


def test_base_tests_give_a_rate_of_their_own_and_a_program_that_passes_all_runs_once(
    run, submitted
):
    tasks = [task | {"meta": {"base_tests": 1}} for task in run.tasks]
    rows = [("a", RIGHT), ("a", BASE_ONLY), ("b", BASE_ONLY), ("b", WRONG)]
    report = run(rows, tasks=tasks, k=[1, 2])
    assert report["pass@1"] == 0.25 and report["base"]["pass@1"] == 0.75
    assert report["base"]["pass@2"] == 1 and report["pass@2"] == 0.5
    assert submitted[4:] == [(BASE_ONLY, 1), (WRONG, 1)]  # the tasks' base tests are the same
    verdicts = common.read_jsonl(run.folder / "run" / "verdicts.jsonl", {})
    assert [row["base_status"] for row in verdicts] == ["passed"] * 3 + ["failed"]


def test_a_sample_is_judged_behind_what_its_prompt_opened(tmp_path):
    """Thinking that never ends is no program, whatever draft stands in it."""
    text = f"So:\n```python\n{RIGHT}```\n"
    samples = [{"task_id": "a", "completion": text}]
    samples += [sample | {"opening": "<think>\n"} for sample in samples]
    common.write_jsonl(tmp_path / "samples.jsonl", samples)
    read = common.read_samples(tmp_path / "samples.jsonl", {"a": {"entry_point": "f"}})
    assert [row["solution"] for row in read] == [RIGHT, "<think>\n" + text]


def test_a_packed_file_of_samples_is_read_as_it_is_and_a_torn_one_refused(run):
    rows = [*ROWS, ("unknown", "x")]
    report = run(rows, name="samples.jsonl.gz")
    assert report["unknown"] == {"samples": 1, "task_ids": ["unknown"]}
    assert run(ROWS, folder="plain") | {"unknown": report["unknown"]} == report
    path = run.folder / "samples.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"samples\.jsonl\.gz: not a whole gzip file"):
        run(folder="torn", name="samples.jsonl.gz")
    assert not (run.folder / "torn").exists()


def test_a_log_is_read_up_to_its_torn_line_and_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text('{"a": "\u2028"}\n{"a": 2}\n{"a": 3')
    assert [row["a"] for row in common.whole_rows(path)] == ["\u2028", 2]
    common.cut_torn_line(path)
    assert path.read_text() == '{"a": "\u2028"}\n{"a": 2}\n'
    path.write_bytes(b'{"a": 1}\n{"a": \xff}\n')
    with pytest.raises(InputError, match=r"samples\.jsonl:2: not a JSON object"):
        list(common.whole_rows(path))


def test_flags_that_change_samples_or_verdicts_are_refused_in_the_same_folder(run):
    run(ROWS)
    with pytest.raises(InputError, match="holds a run with other flags"):
        run(sandbox_timeout=9.0)
    with pytest.raises(InputError, match="holds a run with other flags"):
        run(temperature=0.5)


def test_the_memory_that_waiting_programs_take_does_not_grow_with_their_number(run, monkeypatch):
    waiting, most, submit = [], [0], sandbox.Sandbox.submit

    def spy(self, task, program):
        future = submit(self, task, program)
        waiting.append(future)
        most[0] = max(most[0], sum(not f.done() for f in waiting))
        return future

    monkeypatch.setattr(sandbox.Sandbox, "submit", spy)
    rows = [("a", RIGHT + f"y = {i}\n") for i in range(150)]
    assert run([*rows, ("b", RIGHT)])["pass@1"] == 1 and 2 <= most[0] <= common.verdicts.WINDOW


def test_exports_are_what_the_harnesses_read(tmp_path):
    prefix = 'def f(x):\n    """Doc."""\n'
    tasks = {name: {"task_id": name, "prefix": prefix} for name in ("T/1", "T/0")}
    body = "    return x + 1\n"
    samples = [
        {"task_id": "T/1", "solution": prefix + body},
        {"task_id": "T/1", "solution": RIGHT},  # a chat model's
        {"task_id": "T/0", "solution": WRONG},
    ]
    exports.write("human_eval", tasks, iter(samples), tmp_path)
    rows = common.read_jsonl(tmp_path / "human_eval.jsonl", {"task_id": str, "completion": str})
    assert rows[0] == {"task_id": "T/1", "completion": body}
    results = []
    for row in rows:  # as human-eval runs a row
        namespace = {}
        exec(prefix + row["completion"] + "\n", namespace)
        results.append(namespace["f"](4))
    assert results == [5, 5, 3]
    exports.write("livecodebench", tasks, iter(samples), tmp_path)
    assert json.loads((tmp_path / "livecodebench.json").read_text()) == [
        {"question_id": "T/0", "code_list": [WRONG]},
        {"question_id": "T/1", "code_list": [prefix + body, RIGHT]},
    ]
    exports.write("none", tasks, iter(samples), tmp_path)
    assert len(list(Path(tmp_path).iterdir())) == 2
