"""Bad input: one line, exit code 2, and nothing is left behind. Every flag and every file.

The cases come from the annotations of the stages' Config classes and from the fields that each file
must have, so that a new flag or field is covered by itself. A case runs the stage's own entry
point in a forked process, in a folder of its own.
"""

import ast
import dataclasses
import json
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Annotated

import forks
import pytest

import common
import dpo
import eval as eval_stage
import eval_prm
import grpo
import plot
import ppo
import sandbox
import sft
import train_prm
from benchmarks import (
    apps,
    bigcodebench,
    evalplus,
    gsm8k,
    humaneval,
    livecodebench,
    mbpp,
    micro,
)
from common.flags import Range
from prm_data import contrast, gold, mutate, rank, search

STAGES = {
    "sft": sft,
    "train_prm": train_prm,
    "ppo": ppo,
    "grpo": grpo,
    "dpo": dpo,
    "eval": eval_stage,
    "eval_prm": eval_prm,
    "plot": plot,
    "mutate": mutate,
    "search": search,
    "gold": gold,
    "contrast": contrast,
    "rank": rank,
    "micro": micro,
    "mbpp": mbpp,
    "humaneval": humaneval,
    "evalplus": evalplus,
    "livecodebench": livecodebench,
    "bigcodebench": bigcodebench,
    "apps": apps,
    "gsm8k": gsm8k,
}
INT, FLOAT = "must be of type int, got '{}'", "must be of type float, got '{}'"
FINITE = "must be a finite number, got '{}'"
BAD_WORDS = {  # words that no flag of a type takes, and what is said of them
    int: {"x": INT, "1.5": INT, "": INT, "9" * 30: "must fit into 64 bits, got '{}'"},
    float: {"x": FLOAT, "": FLOAT, "nan": FINITE, "inf": FINITE, "-inf": FINITE, "1e999": FINITE},
    bool: {"maybe": "must be true or false, got 'maybe'", "1": "must be true or false, got '1'"},
    str: {"": "must not be empty"},
}


def types_of(annotation) -> tuple[type, list]:
    """The type of one word of a flag, and what an Annotated says besides; list and None aside."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return types_of(arguments[0])[0], list(arguments[1:])
    if origin is typing.Literal:
        return typing.Literal, list(arguments)
    if arguments:  # list[X], X | None
        return types_of(next(kind for kind in arguments if kind is not type(None)))
    return annotation, []


def bad_words(annotation) -> dict[str, str]:
    """Words that a flag must refuse, and what its error says after the flag's name."""
    kind, more = types_of(annotation)
    if kind is typing.Literal:
        return {"no_such_choice": "must be one of " + ", ".join(map(str, more))}
    words = dict(BAD_WORDS[kind])
    for extra in more:
        if isinstance(extra, Range):
            below = extra.low if extra.above else extra.low - 1
            words[f"{kind(below)}"] = f"must be {extra.words}, got {kind(below)}"
            if extra.high < float("inf"):
                above = kind(extra.high + 1)
                words[f"{above}"] = f"must be {extra.words}, got {above}"
        elif extra == "input file":
            words |= {"nowhere.jsonl": "nowhere.jsonl: no such file"}
            words |= {"folder": "folder is a folder, not a file"}
        elif extra == "output file":
            words |= {"folder": "folder is a folder, not a file"}
            words |= {"rows.jsonl/x": "rows.jsonl is a file, not a folder"}
        elif extra == "output folder":
            words |= {"rows.jsonl": "rows.jsonl is a file, not a folder"}
            words |= {"rows.jsonl/x": "rows.jsonl is a file, not a folder"}
    return words


def required_flags(stage: str) -> dict[str, list[str]]:
    """A value for each flag without a default: for files `rows.jsonl`, outputs under `out`."""
    module, flags = STAGES[stage], {}
    annotations = typing.get_type_hints(module.Config, include_extras=True)
    for field in dataclasses.fields(module.Config):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            kind, more = types_of(annotations[field.name])
            if kind is typing.Literal:
                flags[field.name] = [more[0]]
            elif "input file" in more:
                flags[field.name] = ["rows.jsonl"]
            else:
                flags[field.name] = [f"out/new/{field.name}"]  # no name of a model hub
    return flags


def flag_cases():
    for stage, module in STAGES.items():
        annotations = typing.get_type_hints(module.Config, include_extras=True)
        yield stage, {"no_such_flag": ["1"]}, "unknown flag --no_such_flag"
        for name in required_flags(stage):
            yield stage, {name: None}, f"--{name} is required"
        for field in dataclasses.fields(module.Config):
            name = field.name
            for word, message in bad_words(annotations[name]).items():
                between = ": " if message[0] in "nfr" else " "
                yield stage, {name: [word]}, f"--{name}{between}{message.format(word)}"
            if types_of(annotations[name])[0] is not bool:
                yield stage, {name: []}, f"--{name} "
        inputs, outputs = (
            [n for n, a in annotations.items() if types_of(a)[1:] and kind in types_of(a)[1]]
            for kind in ("input file", "output file")
        )
        for output in outputs:
            for other in inputs + [name for name in outputs if name < output]:
                path = ["rows.jsonl"]
                yield stage, {output: path, other: path}, "are the same: rows.jsonl"


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def check_refused(stage: str, flags: dict, expected: str, folder: Path) -> str | None:
    """What is wrong with how a stage takes bad flags; None where all is right."""
    argv = [
        word
        for name, words in (required_flags(stage) | flags).items()
        if words is not None
        for word in (f"--{name}", *words)
    ]
    before = contents(folder)
    code, error = forks.run(STAGES[stage], argv, folder)
    lines = error.splitlines()
    if code != 2 or len(lines) != 1 or expected not in lines[0]:
        return f"{stage} {' '.join(argv)}: exit {code}, {expected!r} not in {error[-300:]!r}"
    if contents(folder) != before:
        return f"{stage} {' '.join(argv)}: left {sorted(contents(folder).keys() - before.keys())}"
    return None


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "work"
    (folder / "folder").mkdir(parents=True)
    (folder / "rows.jsonl").write_text("{}\n")
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_a_bad_flag_is_one_line_and_leaves_nothing(stage, folder):
    cases = [case for case in flag_cases() if case[0] == stage]
    wrong = [problem for case in cases if (problem := check_refused(*case, folder))]
    assert len(cases) > 8 and not wrong, "\n".join(wrong)


def test_there_are_at_least_three_hundred_cases_of_bad_flags():
    assert sum(1 for _ in flag_cases()) >= 300


TASK = {
    "task_id": "a",
    "prompt": "p",
    "entry_point": "f",
    "solution": "def f():\n    return 1\n",
    "setup": "",
    "style": "assert",
    "tests": ["assert f() == 1"],
    "timeout": None,
    "meta": {"plan": ["a step"]},
}
PROMPT = {"task_id": str, "prompt": str}
PRM_ROW = {"task_id": "a", "prompt": "p", "completions": ["x = 1\n"], "labels": [1.0]}
PRM_ROW |= {"origin": "reference", "meta": {"changed": []}}
PAIR = {"task_id": "a", "prompt": "p", "chosen": "x", "rejected": "y", "meta": {}, "kind": "k"}
OUTCOME = {"task_id": "a", "prompt": "p", "completion": "x", "status": "passed"}
PAIR_FIELDS = PROMPT | {"chosen": str, "rejected": str}
SAMPLE_FIELDS = {"task_id": str, "completion": str}
MODEL = {"model_name_or_path": ["no/such/model"]}
FILES = [  # stage, the flag of the file, other flags, a valid row, the fields that it must have
    ("sft", "tasks", {}, TASK, PROMPT),
    ("train_prm", "data", {}, PRM_ROW, PROMPT | {"completions": list, "labels": list}),
    ("train_prm", "data", {"objective": ["score"]}, PAIR, PAIR_FIELDS),
    ("train_prm", "data", {"objective": ["outcome"]}, OUTCOME, PROMPT | {"status": str}),
    ("ppo", "tasks", {}, TASK, PROMPT),
    ("grpo", "tasks", {}, TASK, PROMPT),
    ("dpo", "data", {}, PAIR, PAIR_FIELDS),
    ("eval", "tasks", MODEL | {"output_dir": ["out"]}, TASK, PROMPT),
    ("eval_prm", "data", {"prm": ["no/such/model"]}, PRM_ROW, PROMPT | {"completions": list}),
    ("eval_prm", "pairs", {"judge": ["no/such/model"]}, PAIR, PAIR_FIELDS),
    ("mutate", "tasks", {}, TASK, PROMPT),
    ("search", "tasks", {}, TASK, PROMPT),
    ("gold", "tasks", {"samples": ["other.jsonl"]}, TASK, PROMPT),
    ("contrast", "tasks", {"samples": ["other.jsonl"]}, TASK, PROMPT),
    ("rank", "tasks", {"samples": ["other.jsonl"], "prm": ["no/such/model"]}, TASK, PROMPT),
    ("rank", "data", {"pairs": ["step"]}, PRM_ROW, PROMPT | {"completions": list}),
]


def bad_lines(row: dict, fields: dict) -> dict[bytes, str]:
    """Second lines of a file whose first line is right, and what is said of them."""

    def line(changes: dict, without: str | None = None) -> bytes:
        changed = {name: value for name, value in (row | changes).items() if name != without}
        return json.dumps(changed).encode()

    lines = {
        b"": "2: not a JSON object",
        b"{": "2: not a JSON object",
        b"[1]": "2: not a JSON object but list",
        b'"text"': "2: not a JSON object but str",
        b"\x00\x00": "2: not a JSON object",
        b'{"task_id": "\xff"}': "2: not a JSON object",
        line({})[:-2]: "2: not a JSON object",
        b"[" * 100_000: "2: not a JSON object",
        b'{"task_id": ' + b"9" * 5000 + b"}": "2: not a JSON object",
    }
    for name, kind in fields.items():
        lines[line({}, without=name)] = f"2: field '{name}' is missing"
        for value in (3, None, {}, [] if kind is str else "x"):
            lines[line({name: value})] = f"2: field '{name}' must be {kind.__name__}"
    lines[line({"prefix": 3})] = "2: field 'prefix' must be str"
    lines[line({"meta": [1]})] = "2: field 'meta' must be dict"
    if row is PRM_ROW:
        lines[line({"completions": [], "labels": []})] = "2: field 'labels' has no label"
    if row is TASK:
        for changes, message in (
            ({"style": "other"}, "style: 'other' is not one of"),
            ({"style": None}, "style: None is not one of"),
            ({"tests": []}, "tests: must be a list with at least one test"),
            ({"tests": "assert f()"}, "tests: must be a list with at least one test"),
            ({"tests": ["assert ("]}, "tests[0]"),
            ({"setup": "def ("}, "setup"),
            ({"setup": 3}, "setup: must be a string"),
            ({"timeout": -1}, "timeout: -1 is not a number of seconds above 0"),
            ({"timeout": "x"}, "timeout: 'x' is not a number of seconds above 0"),
            ({"entry_point": "a b"}, "entry_point: 'a b' is not a name"),
        ):
            lines[line(changes)] = message
    return lines


@pytest.mark.parametrize("number", range(len(FILES)))
def test_a_bad_row_is_named_by_file_line_and_field_and_leaves_nothing(number, folder):
    stage, flag, more, row, fields = FILES[number]
    lines, wrong = bad_lines(row, fields), []
    if stage in ("sft", "rank", "contrast"):  # they do not run the tasks' tests
        lines = {line: message for line, message in lines.items() if message.startswith("2:")}
    for line, message in lines.items():
        good = json.dumps(row).encode() + b"\n"
        (folder / "rows.jsonl").write_bytes(good + line + b"\n")
        (folder / "other.jsonl").write_bytes(b'{"task_id": "a", "completion": "x"}\n')
        expected = f"rows.jsonl:{message}" if message.startswith("2:") else message
        flags = more | {flag: ["rows.jsonl"]}
        problem = check_refused(stage, flags, expected, folder)
        wrong += [f"{line[:80]!r}: {problem}"] if problem else []
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text, whole", [("s = 1\n", True), ("s = 1\r\n", True), ("'a\rb'\n", False)]
)
def test_a_labelled_line_has_no_line_end_inside(text, whole):
    """A reward model's lines end at each carriage return too: later labels would move up."""
    row = PRM_ROW | {"completions": [text, "b = 2\n"], "labels": [1, -1]}
    assert len(common.lines_of(text)) == (1 if whole else 2)
    if whole:
        common.check_prm_row(row)
    else:
        with pytest.raises(ValueError, match="'completions': item 0 must be one line of text"):
            common.check_prm_row(row)


def test_a_null_prefix_or_meta_is_an_absent_one(folder, tmp_path):
    """As in rows that an encoder with all fields has written."""
    nothing = {"prefix": None, "meta": None}
    task = {name: value for name, value in TASK.items() if name != "meta"}
    for fields, name in (({}, "absent"), (nothing, "null")):
        common.write_jsonl(tmp_path / f"{name}.jsonl", [task | fields])
        common.write_jsonl(tmp_path / f"{name}-prm.jsonl", [PRM_ROW | fields])
        common.write_jsonl(tmp_path / f"{name}-samples.jsonl", [OUTCOME | fields])
    labelled = common.read_labelled_lines(tmp_path / "null-prm.jsonl")
    assert common.line_report(labelled, [[0.5]])["eval_lines"] == 1
    made = []
    for name in ("absent", "null"):
        tasks, samples = str(tmp_path / f"{name}.jsonl"), str(tmp_path / f"{name}-samples.jsonl")
        output = str(tmp_path / f"{name}-mutate.jsonl")
        mutate.main(mutate.Config(tasks, output, max_variants_per_line=1, packing="program"))
        made.append((common.read_jsonl(output, {}), sft.read_rows(tasks)))
        eval_stage.main(
            eval_stage.Config(tasks=tasks, samples=samples, output_dir=str(tmp_path / name))
        )
    assert made[0] == made[1]


@pytest.mark.parametrize("number", range(len(FILES)))
def test_a_file_without_rows_is_refused(number, folder):
    stage, flag, more, *_ = FILES[number]
    (folder / "other.jsonl").write_bytes(b'{"task_id": "a", "completion": "x"}\n')
    (folder / "rows.jsonl").write_bytes(b"")
    problem = check_refused(stage, more | {flag: ["rows.jsonl"]}, "rows.jsonl: no rows", folder)
    assert problem is None, problem


CONTRADICTIONS = [  # stage, flags, what is said of them
    ("ppo", {"prm": ["x"], "lambda_fail": ["0"], "lambda_pass": ["0"]}, "--prm has no use"),
    (
        "ppo",
        {"outcome_reward": ["orm"], "orm": ["x"], "prm": ["x"], "lambda_fail": ["0"]},
        "--prm has no use without --lambda_fail",
    ),
    ("ppo", {"outcome_reward": ["none"]}, "needs --prm and --lambda_fail: no other reward"),
    (
        "ppo",
        {"outcome_reward": ["none"], "prm": ["x"], "lambda_fail": ["0"]},
        "needs --prm and --lambda_fail: no other reward",
    ),
    ("ppo", {"orm": ["x"]}, "--outcome_reward orm and --orm go together"),
    ("ppo", {"value_init": ["prm"]}, "--value_init prm needs --prm"),
    ("ppo", {"num_prompts": ["3"]}, "--num_prompts must be a multiple"),
    ("ppo", {"temperature": ["0"]}, "--temperature must be above 0"),
    ("grpo", {"num_generations": ["1"]}, "--num_generations must be at least 2"),
    ("grpo", {"rollout_batch_size": ["2"]}, "--rollout_batch_size must be at least"),
    ("mutate", {"teacher_model": ["x"]}, "--teacher_model is for the URL of an endpoint"),
    ("mutate", {"intents": ["mutate", "mutate"]}, "--intents has mutate twice"),
    ("contrast", {"teacher_model": ["x"]}, "--teacher_model is for the URL of an endpoint"),
    ("rank", {"pairs": ["step"], "data": ["rows.jsonl"], "prm": ["x"]}, "--prm has no use"),
    (
        "rank",
        {
            "rank_by": ["tests"],
            "prm": ["x"],
            "tasks": ["rows.jsonl"],
            "samples": ["rows.jsonl"],
        },
        "--prm has no use",
    ),
]


@pytest.mark.parametrize("number", range(len(CONTRADICTIONS)))
def test_flags_that_contradict_each_other_are_refused_and_leave_nothing(number, folder):
    stage, flags, message = CONTRADICTIONS[number]
    (folder / "rows.jsonl").write_text(json.dumps(TASK) + "\n")
    problem = check_refused(stage, flags, message, folder)
    assert problem is None, problem


RUNS_PROGRAMS = {  # stages that run programs, and the flags with which they do
    "ppo": {},
    "grpo": {},
    "eval": MODEL | {"tasks": ["rows.jsonl"], "output_dir": ["out"]},
    "eval_prm": {"samples": ["other.jsonl"], "tasks": ["rows.jsonl"], "agreement": ["true"]},
    "mutate": {},
    "search": {},
    "gold": {"samples": ["other.jsonl"]},
}


@pytest.mark.parametrize("stage", RUNS_PROGRAMS)
def test_tasks_that_need_packages_ask_for_the_flag_in_one_line(stage, folder):
    task = TASK | {"packages": ["scipy", "numpy"]}
    (folder / "rows.jsonl").write_text(json.dumps(task) + "\n")
    (folder / "other.jsonl").write_text(json.dumps(OUTCOME) + "\n")
    for flags, missing in (({}, "numpy scipy"), ({"packages": ["scipy"]}, "numpy")):
        expected = f"rows.jsonl: its tasks need --packages {missing}"
        problem = check_refused(stage, RUNS_PROGRAMS[stage] | flags, expected, folder)
        assert problem is None, problem


def test_programs_of_every_stage_may_import_the_packages_of_the_flag(tmp_path):
    program = "import numpy\n\n\ndef f():\n    return int(numpy.square(1))\n"
    task = TASK | {"packages": ["numpy"], "solution": program}
    common.write_jsonl(tmp_path / "tasks.jsonl", [task])
    common.write_jsonl(tmp_path / "samples.jsonl", [{"task_id": "a", "solution": program}])
    tasks, packages = str(tmp_path / "tasks.jsonl"), ["numpy"]
    mutate.main(
        mutate.Config(
            tasks, str(tmp_path / "mutate.jsonl"), packages=packages, max_variants_per_line=1
        )
    )
    samples, output = str(tmp_path / "samples.jsonl"), str(tmp_path / "gold.jsonl")
    gold.main(gold.Config(tasks, samples, output, packages=packages))
    (row,) = common.read_jsonl(output, {})
    assert row["labels"] == [1.0, None, None, 1.0, 1.0]
    for stage in RUNS_PROGRAMS.keys() - {"eval"}:  # eval's sandbox is that of its VerdictLog
        tree = ast.parse(Path(STAGES[stage].__file__).read_text(encoding="utf-8"))
        (pool,) = (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "sandbox.Sandbox"
        )
        given = {word.arg: ast.unparse(word.value) for word in pool.keywords}
        assert given.get("packages") == "config.packages", stage


def test_a_task_that_the_sandbox_refuses_is_one_line(folder):
    def refuse(config):
        raise sandbox.TaskError("task a: tests: 9 bytes exceed 8")

    stage = types.SimpleNamespace(__name__="gold", main=refuse, Config=gold.Config)
    argv = ["--tasks", "rows.jsonl", "--samples", "rows.jsonl", "--output_file", "out.jsonl"]
    code, error = forks.run(stage, argv, folder)
    assert code == 2 and error == "gold.py: error: task a: tests: 9 bytes exceed 8\n"


def test_label_smoothing_is_no_flag_of_ipo(folder):
    (folder / "rows.jsonl").write_text(json.dumps(PAIR) + "\n")
    flags = {"loss_type": ["ipo"], "label_smoothing": ["0.1"]}
    assert check_refused("dpo", flags, "and 0 with --loss_type ipo", folder) is None


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0"}, "the environment has RANK, but WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "2"}, "the environment has WORLD_SIZE, but RANK is ''"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        (
            {
                "RANK": "0",
                "WORLD_SIZE": "0",
                "LOCAL_RANK": "0",
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": "29500",
            },
            "RANK 0 is not below WORLD_SIZE 0",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK is ''"),
    ],
)
def test_torchruns_variables_in_part_are_one_line(folder, variables, message, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    problem = check_refused("ppo", {}, message, folder)
    assert problem is None, problem


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\0\0"])
def test_a_damaged_report_is_one_line_of_the_tables(folder, content):
    for name in ("report.json", "metrics.jsonl"):
        for place in ("0/eval-a", "0/a"):
            (folder / place).mkdir(parents=True, exist_ok=True)
            (folder / place / name).write_text(content)
    command = [sys.executable, "reproduce/tables.py", "seeds", str(folder), "a", "a=A"]
    root = Path(__file__).parent.parent
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("tables.py: ") and str(folder) in result.stderr


def test_a_choice_that_may_be_none_is_a_flag(folder):
    @dataclasses.dataclass
    class Config:
        kind: typing.Literal["a", "b"] | None = None
        number: typing.Literal[1, 2] = 1

    assert common.parse_flags(Config, ["--kind", "b", "--number", "2"]) == Config("b", 2)
    assert common.parse_flags(Config, ["--kind", "none"]) == Config()
    with pytest.raises(common.InputError, match="--number must be one of 1, 2, got '3'"):
        common.parse_flags(Config, ["--number", "3"])
