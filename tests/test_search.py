"""Labels by search: searches on made-up answers, then runs where each prefix's truth is known."""

import json
import math
from concurrent.futures import Future

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import common
import sft
from benchmarks import micro
from common import InputError
from kernels import lexer, masking
from prm_data import search
from prm_data.prefix_search import (
    SEARCHES,
    Labelled,
    binary_search,
    exhaustive_search,
    label_responses,
    linear_search,
    program_kinds,
)
from sandbox import Sandbox


def drive(steps, recoverable):
    """first_bad of a search on the answers of `recoverable(line)`, and the lines it asked for."""
    asked, answer = [], None
    try:
        while True:
            asked.append(steps.send(answer))
            answer = recoverable(asked[-1])
    except StopIteration as end:
        return end.value, asked


@pytest.mark.parametrize("num_lines", [*range(1, 34), 100, 127, 128, 129])
def test_every_search_finds_the_first_bad_line_of_a_monotone_response(num_lines):
    for lost in range(
        1, num_lines + 2
    ):  # num_lines + 1: every prefix, the whole response too, can still be completed
        results = {
            name: drive(begin(num_lines), lambda m, lost=lost: m < lost)
            for name, begin in SEARCHES.items()
        }
        assert {first_bad for first_bad, _ in results.values()} == {min(lost, num_lines)}
        assert len(results["binary"][1]) <= math.ceil(math.log2(num_lines + 1))
        assert results["linear"][1] == list(range(1, min(lost, num_lines - 1) + 1))
        assert results["exhaustive"][1] == list(range(1, num_lines + 1))


def printed_algorithm(num_lines, recoverable):
    """Algorithm 1 as the paper has it, with its question about the last line."""
    left, right, first_bad, asked = 1, num_lines, num_lines, []
    while left <= right:
        m = (left + right) // 2
        asked.append(m)
        if recoverable(m):
            left = m + 1
        else:
            first_bad, right = m, m - 1
    return first_bad, asked


def test_the_binary_search_is_the_printed_one_whatever_the_answers():
    for num_lines in range(1, 10):
        for bits in range(2**num_lines):
            first_bad, asked = drive(
                binary_search(num_lines),
                lambda m, bits=bits: bool(bits >> (m - 1) & 1),
            )
            printed, printed_asked = printed_algorithm(
                num_lines, lambda m, bits=bits: bool(bits >> (m - 1) & 1)
            )
            assert first_bad == printed and asked == [m for m in printed_asked if m < num_lines]


def test_answers_that_are_not_monotone_have_a_defined_result():
    answers = {1: True, 2: False, 3: True, 4: False, 5: True, 6: False, 7: False}.__getitem__
    assert drive(linear_search(7), answers) == (2, [1, 2])
    assert drive(binary_search(7), answers) == (2, [4, 2, 1])
    assert drive(exhaustive_search(7), answers)[0] == 6  # after the last recoverable line
    assert drive(exhaustive_search(7, first=0), lambda m: m == 0) == (
        1,
        list(range(8)),
    )


CODE, COMMENT, BLANK, DOCSTRING = lexer.CODE, lexer.COMMENT, lexer.BLANK, lexer.DOCSTRING


def test_labels_follow_the_first_bad_line_the_shares_or_their_change_and_only_code_has_one():
    kinds, passing = [CODE, COMMENT, CODE, BLANK, CODE, DOCSTRING], [10, 15, 14, 4, 6, 0, 0]
    failed = Labelled(
        ["\n"] * 6, kinds, False, 3, [(line, n, 20) for line, n in enumerate(passing)], True
    )
    right = failed._replace(passed=True, first_bad=None)
    assert failed.labels() == [1, 0, -1, 0, -1, 0]
    assert failed._replace(first_bad=1).labels() == [-1, 0, -1, 0, -1, 0]
    assert right.labels() == [1, 0, 1, 0, 1, 0]
    assert failed.labels(neutral_comments=False) == [1, 1, -1, -1, -1, -1]
    assert failed.labels("soft") == [0.75, 0, 0.2, 0, 0, 0]
    assert right.labels("marginal") == pytest.approx([0.25, 0, -0.5, 0, -0.3, 0])
    assert failed._replace(judged=False).labels() is None


def test_masking_keeps_the_first_bad_line_and_drops_what_follows():
    found = Labelled(
        ["a\n"] * 4, [CODE, CODE, COMMENT, CODE], False, 2, [(2, 0, 8), (1, 3, 4)], True
    )
    assert found.labels(mask_after_first_error=True) == [1.0, -1.0, None, None] and found.revised
    right = found._replace(passed=True, first_bad=None)
    assert right.labels(mask_after_first_error=True) == right.labels()
    assert not found._replace(
        first_bad=1, probes=[(0, 3, 4), (1, 0, 8)]
    ).revised  # completing the prompt alone is no revision


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ((2, 0, 0), {"full", "remove_hard"}),
        ((0, 2, 0), {"full"}),
        ((0, 2, 1), {"full", "remove_hard", "revised_only"}),
        ((1, 1, 0), {"full", "remove_hard", "medium_only"}),
        ((1, 1, 1), {"full", "remove_hard", "medium_only", "revised_only"}),
    ],
)
def test_prompts_are_selected_by_what_their_responses_did(counts, kept):
    names = ("full", "remove_hard", "medium_only", "revised_only")
    assert {name for name in names if search.is_kept(name, *counts)} == kept


class Runner:
    """Stands in for the sandbox: a text passes when its number of a's is its task's.

    So every prefix with no more a's than that can still be completed.
    """

    def __init__(self, broken=lambda program: False, **_):
        self.broken, self.programs = broken, []

    def submit(self, task, program):
        self.programs.append((task["task_id"], program))
        status = "passed" if program.count("a") == task["wanted"] else "failed"
        future = Future()
        future.set_result({"status": "harness_error" if self.broken(program) else status})
        return future

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture(scope="module")
def random_policy():
    """A random policy over a few letters; one token goes on after a newline, one ends two lines."""
    vocabulary = {
        c: i for i, c in enumerate(["<pad>", "<eos>", "a", "b", "#", "\n", "\n\n", "\na"])
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, [("\n", "\n"), ("\n", "a")]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    policy = common.new_model(tokenizer, 32, 1, seed=3).eval()
    return policy, tokenizer, masking.line_table(tokenizer)


LENGTH = 24
TASKS = [
    {"task_id": f"t{i}", "prompt": "ab" * (1 + i % 3), "wanted": [1, 2, 2, 20][i % 4]}
    for i in range(10)
]


@pytest.fixture(scope="module")
def responses(random_policy):
    """Tasks, prompts, responses of the random policy, whether they pass, seeds."""
    policy, tokenizer, _ = random_policy
    prompts = [common.encode_prompt(tokenizer, task) for task in TASKS]
    rollout = common.roll_out(policy, tokenizer, prompts, 4, LENGTH, 1.0, list(range(40)))
    tasks = [task for task in TASKS for _ in range(4)]
    passed = [
        text.count("a") == task["wanted"] for text, task in zip(rollout.texts, tasks, strict=True)
    ]
    return tasks, rollout.prompts, rollout.completions, passed, list(range(1000, 1040))


def label(random_policy, responses, runner=None, rows=None, **flags):
    columns = responses if rows is None else [[column[i] for i in rows] for column in responses]
    flags = {"num_completions": 40, "max_completion_length": LENGTH, **flags}
    return label_responses(*random_policy, runner or Runner(), *columns, **flags)


def text_up_to(tokenizer, ids, num_newlines):
    """The text of the sampled tokens up to the one that brings the newline of that number."""
    text = ""
    for i in ids:
        text += tokenizer.decode([i], skip_special_tokens=True)
        if text.count("\n") >= num_newlines:
            break
    return text


def true_first_bad(tokenizer, task, ids, num_lines):
    """The first line at whose end the response has too many a's; the last line where none has."""
    prefixes = [text_up_to(tokenizer, ids, m) for m in range(1, num_lines + 1)]
    return next(
        (m for m, text in enumerate(prefixes, 1) if text.count("a") > task["wanted"]), num_lines
    )


@pytest.mark.parametrize("name", ["binary", "linear", "exhaustive"])
def test_the_first_bad_line_is_the_one_whose_tokens_lose_the_response(
    random_policy, responses, name
):
    _, tokenizer, _ = random_policy
    rows = [
        i for i, task in enumerate(responses[0]) if task["wanted"] < 20
    ]  # the others hardly ever pass
    found, _ = label(random_policy, responses, rows=rows, search=name)
    kinds_seen = set()
    for row, result in zip(rows, found, strict=True):
        task, _, ids, passed, _ = (column[row] for column in responses)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert "".join(result.lines) == text and result.lines == text.splitlines(keepends=True)
        if passed:
            assert (
                result.first_bad is None
                and set(result.labels()) <= {0.0, 1.0}
                and not result.probes
            )
            continue
        if not result.lines:
            assert result.labels() == []
            continue
        assert result.first_bad == true_first_bad(tokenizer, task, ids, len(result.lines))
        kinds_seen.add(text_up_to(tokenizer, ids, result.first_bad).endswith("\na"))
        neutral = [not line.split("#")[0].strip() for line in result.lines]
        expected = [1.0 if m < result.first_bad else -1.0 for m in range(1, len(neutral) + 1)]
        assert result.labels() == [
            0.0 if skip else x for skip, x in zip(neutral, expected, strict=True)
        ]
    assert kinds_seen == {False, True}  # a token that spans a newline was what lost one of them


def test_prefixes_are_the_sampled_tokens_and_are_never_encoded_again(
    random_policy, responses, monkeypatch
):
    _, tokenizer, _ = random_policy
    prompts, completions = responses[1], responses[2]
    seen, roll_out = [], common.roll_out
    monkeypatch.setattr(common, "roll_out", lambda *a: seen.extend(a[2]) or roll_out(*a))
    label(random_policy, responses, search="exhaustive", num_completions=1)
    known = {
        tuple(p + c[:n])
        for p, c in zip(prompts, completions, strict=True)
        for n in range(1, len(c) + 1)
    }
    assert len(seen) > 100 and {tuple(row) for row in seen} <= known
    again = [tokenizer(tokenizer.decode(row), add_special_tokens=False).input_ids for row in seen]
    assert any(
        ids != row for ids, row in zip(again, seen, strict=True)
    )  # the test would see the difference


def test_no_completion_makes_a_response_longer_than_the_policy_may_write(
    random_policy, responses, monkeypatch
):
    rows = [i for i, ids in enumerate(responses[2]) if len(ids) <= 12]  # as sampled at that length
    lengths, decode = [], common.decode
    monkeypatch.setattr(
        common,
        "decode",
        lambda tokenizer, ids: lengths.extend(map(len, ids)) or decode(tokenizer, ids),
    )
    _, cost = label(random_policy, responses, rows=rows, max_completion_length=12, search="linear")
    assert max(lengths) == 12 and lengths.count(12) > 20 and cost["completions"] > 100


@pytest.mark.parametrize(
    "flags",
    [{"batch_size": 5}, {"rows": [3, 38, 17, 8]}, {"rows": [3, 38, 17, 8], "batch_size": 1}],
)
def test_labels_depend_on_a_response_alone(random_policy, responses, flags):
    usual, cost = label(random_policy, responses, num_completions=6)
    found, other_cost = label(random_policy, responses, num_completions=6, **flags)
    assert found == [usual[i] for i in flags.get("rows", range(len(usual)))]
    assert other_cost == cost or "rows" in flags


def test_other_seeds_complete_otherwise(random_policy, responses):
    usual, other = Runner(), Runner()
    label(random_policy, responses, usual, num_completions=2)
    label(
        random_policy,
        [*responses[:-1], [seed + 1 for seed in responses[-1]]],
        other,
        num_completions=2,
    )
    assert len(set(usual.programs) & set(other.programs)) < 0.5 * len(set(usual.programs))


def test_two_halves_give_the_answers_of_one_draw_and_cost_less(random_policy, responses):
    found, cost = label(random_policy, responses, num_completions=8)
    shares, _ = label(random_policy, responses, num_completions=8, search="exhaustive")
    for result, every in zip(found, shares, strict=True):
        passing = {line: n for line, n, _ in every.probes}
        assert all((n > 0) == (passing[line] > 0) for line, n, _ in result.probes)
    assert cost["completions"] < 8 * cost["probes"] and cost["probes"] == sum(
        len(result.probes) for result in found
    )


def test_shared_completions_only_move_the_first_bad_line_towards_the_truth(
    random_policy, responses
):
    _, tokenizer, _ = random_policy
    alone, cost = label(random_policy, responses, num_completions=2)
    shared, shared_cost = label(random_policy, responses, num_completions=2, share_completions=True)
    assert shared_cost == cost
    moved = 0
    for task, ids, passed, one, other in zip(
        *(responses[i] for i in (0, 2, 3)), alone, shared, strict=True
    ):
        if passed or not one.lines:
            assert one == other
            continue
        assert (
            one.first_bad <= other.first_bad <= true_first_bad(tokenizer, task, ids, len(one.lines))
        )
        moved += one.first_bad < other.first_bad
        assert other.revised or other.first_bad == 1
        labels = other.labels()
        assert (
            all(x >= 0 for x in labels[: other.first_bad - 1])
            and max(labels[other.first_bad - 1 :]) <= 0
        )
    assert moved > 3


def test_soft_labels_are_the_shares_of_all_completions_for_passing_responses_too(
    random_policy, responses
):
    found, _ = label(random_policy, responses, search="exhaustive", shares=True, num_completions=5)
    assert any(responses[3])
    for result in found:
        if not result.lines:
            continue
        share = {line: passing / judged for line, passing, judged in result.probes}
        assert sorted(share) == list(range(len(result.lines) + 1)) and {
            judged for *_, judged in result.probes
        } == {5}
        soft, marginal = result.labels("soft"), result.labels("marginal")
        code = [m for m, line in enumerate(result.lines, 1) if line.split("#")[0].strip()]
        assert [soft[m - 1] for m in code] == [share[m] for m in code]
        assert [marginal[m - 1] for m in code] == [share[m] - share[m - 1] for m in code]


def test_completions_without_a_verdict_count_nowhere(random_policy, responses):
    found, _ = label(random_policy, responses, Runner(lambda program: True))
    for passed, result in zip(responses[3], found, strict=True):
        searched = not passed and len(result.lines) > 1
        assert (result.labels() is None) == searched and not result.revised
    half = Runner(lambda program: len(program) % 2 == 0)
    found, _ = label(
        random_policy, responses, half, search="exhaustive", shares=True, num_completions=8
    )
    judged = [count for result in found for _, _, count in result.probes]
    assert min(judged) < 8 and sum(0 < count < 8 for count in judged) > 20
    for result in found:
        labels = result.labels("soft")
        assert (labels is None) == any(count == 0 for _, _, count in result.probes)
        if labels:
            share = [passing / count for _, passing, count in result.probes[1:]]
            assert all(x in (0, p) for x, p in zip(labels, share, strict=True)) and max(share) <= 1


PROSE = [("Tricky :( so:\n```python\n", "```\nDone."), ("1) read\n<answer>\n", "</answer>")]
DOCUMENTED = """def f(x):
    '''doc'''
    y = g(
        'abc'
    )
    {line}
    return y
"""
KINDS = [CODE, DOCSTRING, CODE, CODE, CODE, CODE, CODE]


class Judge(Runner):
    """Stands in for the sandbox: a program passes where `passes(program)`."""

    def __init__(self, passes):
        self.passes = passes

    def submit(self, task, program):
        future = Future()
        future.set_result({"status": "passed" if self.passes(program) else "failed"})
        return future


def label_texts(monkeypatch, texts, passes, **flags):
    """Labels of texts whose prefixes are completed by nothing; and the prefixes' texts."""
    tokenizer = common.new_tokenizer([*texts, "p\n"], 300)
    task, asked = {"task_id": "t", "prompt": "p", "entry_point": "f"}, []
    prompt = common.encode_prompt(tokenizer, task)

    def roll_out(model, tokenizer, prompts, num_generations, *_):
        asked.extend(common.decode(tokenizer, [ids[len(prompt) :] for ids in prompts]))
        nothing = [[] for _ in range(len(prompts) * num_generations)]
        return common.Rollout(nothing, nothing, [], None, None, None)

    monkeypatch.setattr(common, "roll_out", roll_out)
    count, programs = len(texts), [common.extract_program(task, text) for text in texts]
    found, _ = label_responses(
        None,
        tokenizer,
        masking.line_table(tokenizer),
        Judge(passes),
        [task] * count,
        [prompt] * count,
        [common.encode_completion(tokenizer, text) for text in texts],
        list(map(passes, programs)),
        list(range(count)),
        **{"num_completions": 2, **flags},
    )
    return found, asked


@pytest.mark.parametrize(("before", "after"), PROSE)
@pytest.mark.parametrize("name", ["binary", "linear", "exhaustive"])
def test_lines_around_the_program_have_no_label_and_are_not_searched(
    monkeypatch, before, after, name
):
    texts = [before + DOCUMENTED.format(line=line) + after for line in ("bad", "good")]
    outside = before.count("\n")  # lines before the program
    around = [None] * outside, [None] * (1 + after.count("\n"))
    (failed, passed), asked = label_texts(
        monkeypatch, texts, lambda program: "def" in program and "bad" not in program, search=name
    )
    assert "".join(failed.lines) == texts[0] and failed.first_bad == outside + 6
    assert failed.kinds == passed.kinds == [*around[0], *KINDS, *around[1]]
    assert failed.labels() == [*around[0], 1, 0, 1, 1, 1, -1, -1, *around[1]]
    assert passed.labels() == [*around[0], 1, 0, 1, 1, 1, 1, 1, *around[1]]
    assert failed.labels(neutral_comments=False)[outside + 1] == 1
    assert {line for line, _, _ in failed.probes} <= set(range(outside + 1, outside + 8))
    assert asked and all(texts[0].startswith(text) and before in text for text in asked)
    assert failed.revised and failed.labels(mask_after_first_error=True)[outside + 6 :] == [
        None
    ] * (1 + len(around[1]))


def test_prose_before_the_program_is_no_recovered_prefix(monkeypatch):
    """A response lost in its program's first line is not revised. Completions that are shared move
    its first bad line through the program alone."""
    before, after = PROSE[0]
    texts = [before + DOCUMENTED.format(line=line) + after for line in ("bad", "good")]
    passes = lambda program: "good" in program  # noqa: E731
    for shared, first_bad in ((False, 3), (True, 8)):
        (failed, _), _ = label_texts(monkeypatch, texts, passes, share_completions=shared)
        assert failed.first_bad == first_bad and failed.revised == shared


def test_shares_change_from_one_line_of_the_program_to_the_next(monkeypatch):
    before, after = PROSE[0]
    (found,), asked = label_texts(
        monkeypatch,
        [before + DOCUMENTED.format(line="bad") + after],
        lambda program: "bad" not in program,  # the prompt alone can be completed
        search="exhaustive",
        shares=True,
    )
    assert [line for line, _, _ in found.probes] == [0, *range(3, 10)] and "" in asked
    nothing = [None, None]
    assert found.labels("soft") == [*nothing, 1, 0, 1, 1, 1, 0, 0, *nothing]
    assert found.labels("marginal") == [*nothing, 0, 0, 0, 0, 0, -1, 0, *nothing]


def test_a_token_that_goes_from_the_fence_into_the_program_moves_no_kind():
    """The program's first token begins in the line before: "\\n " ends the fence's line."""
    text = "So :(\n```\n 'doc'\n return x\n```"
    vocabulary = {c: i for i, c in enumerate(["<pad>", "<eos>", "\n ", *sorted(set(text))])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("\n", " ")]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    ids = common.pad([tokenizer(text).input_ids])
    assert vocabulary["\n "] in ids[0]
    task = {"entry_point": "f", "prefix": "def f(x):\n"}
    (kinds,) = program_kinds(
        ids,
        ids >= 0,
        masking.line_table(tokenizer),
        [common.extract_program(task, text)],
        [text],
    )
    assert kinds == [None, None, DOCSTRING, CODE, None]


@pytest.mark.parametrize("passed", [True, False])
def test_an_answer_without_its_program_has_no_row(tmp_path, passed):
    task = {"task_id": "t", "prompt": "p"}
    lost = Labelled(["So:\n", "```\n", "```"], [None] * 3, passed, None, [], True)
    found = Labelled(["So:\n", "a\n", "```"], [None, CODE, None], False, 2, [], True)
    responses = [{"task_id": "t", **result._asdict()} for result in (lost, found)]
    chunk = {"policy": 0, "responses": responses, "cost": {}}
    labelled, report = search.rows_and_report(
        search.Config("", [], str(tmp_path / "prm.jsonl")), [task], [chunk]
    )
    assert [row["labels"] for row in labelled] == [[None, -1.0, None]]
    assert report["passed"] == passed and report["first_bad"] == {"2": 1}
    assert report["first_bad_before_last_line"] == 0  # prose may follow
    common.check_prm_row(labelled[0])


@pytest.fixture
def folders(tmp_path, random_policy, monkeypatch):
    """Two policies in folders and a tasks file, with the stand-in for the sandbox."""
    _, tokenizer, _ = random_policy
    monkeypatch.setattr(search.sandbox, "Sandbox", Runner)
    for name, seed in (("one", 3), ("two", 4)):
        model = common.new_model(tokenizer, 32, 1, seed=seed)
        if name == "two":
            model.get_input_embeddings().weight.data *= (
                10  # far from uniform, and so from the first one
            )
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    tests = {"style": "stdio", "tests": [{"input": "", "output": ""}]}
    common.write_jsonl(tmp_path / "tasks.jsonl", [task | tests for task in TASKS])
    return tmp_path


def config_of(folder, output="prm.jsonl", **flags):
    flags = {
        "num_completions": 4,
        "num_generations": 3,
        "max_completion_length": 24,
        "chunk_size": 5,
        **flags,
    }
    policies = [str(folder / "one"), str(folder / "two")]
    return search.Config(str(folder / "tasks.jsonl"), policies, str(folder / output), **flags)


def test_a_run_that_was_cut_off_goes_on_to_the_same_file(folders, monkeypatch):
    search.main(config_of(folders))
    whole, report = (
        (folders / "prm.jsonl").read_bytes(),
        json.loads((folders / "prm.report.json").read_text()),
    )
    progress = folders / "prm.jsonl.progress"
    lines = progress.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 2 * 2
    for kept in (1, 4):  # killed in the first and the last chunk, while it wrote the line
        progress.write_text("".join(lines[:kept]) + lines[kept][:50])
        (folders / "prm.jsonl").unlink()
        search.main(config_of(folders))
        assert (folders / "prm.jsonl").read_bytes() == whole
        again = json.loads((folders / "prm.report.json").read_text())
        assert again | {"seconds": 0} == report | {"seconds": 0}
    monkeypatch.setattr(search.sandbox, "Sandbox", None)  # from here on, nothing may be searched
    search.main(config_of(folders))
    assert (folders / "prm.jsonl").read_bytes() == whole
    with pytest.raises(InputError, match="other flags"):
        search.main(config_of(folders, seed=1))


def test_tasks_that_were_added_or_edited_are_searched_and_the_others_are_not(
    folders, monkeypatch, capsys
):
    tasks = common.read_jsonl(folders / "tasks.jsonl", {})
    config, progress = config_of(folders, chunk_size=3), folders / "prm.jsonl.progress"
    searched, search_chunk = [], search.search_chunk

    def noted(*args):
        searched.append((args[-1], [task["task_id"] for task in args[-2]]))
        return search_chunk(*args)

    def rows_of(tasks):
        searched.clear()
        common.write_jsonl(folders / "tasks.jsonl", tasks)
        search.main(config)
        return (folders / "prm.jsonl").read_bytes()

    monkeypatch.setattr(search, "search_chunk", noted)
    whole = rows_of(tasks)
    progress.unlink()
    (folders / "prm.jsonl").unlink()
    rows_of(tasks[:4])
    assert rows_of(tasks) == whole
    names = [task["task_id"] for task in tasks]
    others = [names[start : start + 3] for start in range(3, len(names), 3)]
    assert searched == [(index, chunk) for index in (0, 1) for chunk in others]
    assert rows_of(tasks) == whole and not searched

    tasks[0]["prompt"] += " Now."
    edited = rows_of(tasks)
    assert searched == [(0, names[:3]), (1, names[:3])] and edited != whole

    flags, *lines = [json.loads(line) for line in open(progress)]
    for line in lines:  # of an earlier version
        del line["digest"]
    common.write_jsonl(progress, [flags, *lines])
    assert rows_of(tasks) == edited and not searched
    assert "an earlier version" in capsys.readouterr().out
    rows_of(tasks[:4])
    assert searched == [(0, names[3:4]), (1, names[3:4])]


def test_other_flags_for_the_rows_alone_write_them_anew_without_a_search(folders, monkeypatch):
    search.main(config_of(folders))
    rows = common.read_jsonl(folders / "prm.jsonl", {})
    assert {row["meta"]["policy"] for row in rows} == {0, 1}
    assert [row["task_id"] for row in rows] == sorted(
        (row["task_id"] for row in rows), key=lambda name: int(name[1:])
    )
    monkeypatch.setattr(search.sandbox, "Sandbox", None)
    for selection in ("remove_hard", "medium_only", "revised_only"):
        search.main(config_of(folders, data_selection=selection))
        names = ("n_pass", "n_fail", "n_revised")
        kept = [
            row for row in rows if search.is_kept(selection, *(row["meta"][name] for name in names))
        ]
        assert common.read_jsonl(folders / "prm.jsonl", {}) == kept and len(kept) < len(rows)
    search.main(config_of(folders, mask_after_first_error=True))
    for row, masked in zip(rows, common.read_jsonl(folders / "prm.jsonl", {}), strict=True):
        last = row["meta"]["first_bad"] or len(row["labels"])
        assert masked["labels"] == row["labels"][:last] + [None] * (len(row["labels"]) - last)
    search.main(config_of(folders, neutral_comments=False))
    every = common.read_jsonl(folders / "prm.jsonl", {})
    assert any(0.0 in row["labels"] for row in rows) and not any(
        0.0 in row["labels"] for row in every
    )
    for row, other in zip(rows, every, strict=True):
        assert all(x in (0.0, y) for x, y in zip(row["labels"], other["labels"], strict=True))


def test_soft_and_marginal_labels_come_from_one_search_that_hard_ones_do_not(folders, monkeypatch):
    search.main(config_of(folders, search="exhaustive", labels="soft"))
    soft = common.read_jsonl(folders / "prm.jsonl", {})
    monkeypatch.setattr(search.sandbox, "Sandbox", None)
    search.main(config_of(folders, search="exhaustive", labels="marginal"))
    marginal = common.read_jsonl(folders / "prm.jsonl", {})
    assert [row["completions"] for row in marginal] == [row["completions"] for row in soft]
    assert (
        min(x for row in soft for x in row["labels"])
        == 0
        > min(x for row in marginal for x in row["labels"])
    )
    with pytest.raises(InputError, match="other flags"):
        search.main(config_of(folders, search="exhaustive"))


def test_another_model_may_complete_if_it_has_the_same_tokens(folders):
    search.main(config_of(folders))
    own = common.read_jsonl(folders / "prm.jsonl", {})
    search.main(config_of(folders, "other.jsonl", completer=str(folders / "two")))
    other = common.read_jsonl(folders / "other.jsonl", {})
    assert [row["completions"] for row in other] == [
        row["completions"] for row in own
    ]  # the policies still answer
    assert [r for r in other if r["meta"]["policy"] == 1] != [
        r for r in own if r["meta"]["policy"] == 0
    ]
    changed = [
        a["meta"]["policy"] for a, b in zip(own, other, strict=True) if a["labels"] != b["labels"]
    ]
    assert 0 in changed
    tokenizer = common.new_tokenizer(["ab\n"], 300)
    common.new_model(tokenizer, 32, 1, seed=0).save_pretrained(folders / "foreign")
    tokenizer.save_pretrained(folders / "foreign")
    with pytest.raises(InputError, match="tokenizer is not that of"):
        search.main(config_of(folders, "third.jsonl", completer=str(folders / "foreign")))


def test_shares_need_the_exhaustive_search(folders):
    with pytest.raises(InputError, match="--labels soft needs --search exhaustive"):
        search.main(config_of(folders, labels="soft"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Labels of a small policy that has learned a few micro tasks, from the real sandbox."""
    folder = tmp_path_factory.mktemp("search")
    micro.main(
        micro.Config(
            str(folder),
            num_sft_tasks=1,
            num_train_tasks=12,
            num_test_tasks=1,
            min_steps=3,
            max_steps=3,
            train_min_steps=3,
        )
    )
    tasks = common.read_jsonl(folder / "train.jsonl", {})
    sft.main(
        sft.Config(
            str(folder / "train.jsonl"),
            str(folder / "sft"),
            max_steps=110,
            train_batch_size=8,
            hidden_size=64,
            num_hidden_layers=1,
            vocab_size=512,
            learning_rate=4e-3,
            warmup_steps=2,
        )
    )
    config = search.Config(
        str(folder / "train.jsonl"),
        [str(folder / "sft")],
        str(folder / "prm.jsonl"),
        num_completions=8,
        max_completion_length=64,
    )
    search.main(config)
    return {task["task_id"]: task for task in tasks}, folder


def test_micro_rows_are_labelled_as_execution_says(labelled):
    tasks, folder = labelled
    rows = common.read_jsonl(folder / "prm.jsonl", {}, common.check_prm_row)
    assert {row["meta"]["steps"] for row in rows} == {3} and {row["origin"] for row in rows} == {
        "search"
    }
    with Sandbox() as sandbox:
        verdicts = sandbox.judge(
            [(tasks[row["task_id"]], "".join(row["completions"])) for row in rows]
        )
    assert [row["meta"]["passed"] for row in rows] == [
        verdict["status"] == "passed" for verdict in verdicts
    ]
    exact = failing = 0
    for row in rows:
        meta, labels = row["meta"], row["labels"]
        if meta["passed"]:
            assert set(labels) <= {1.0, 0.0} and meta["probes"] == 0
            continue
        assert all(
            x in (1.0 if m < meta["first_bad"] else -1.0, 0.0) for m, x in enumerate(labels, 1)
        )
        reference = tasks[row["task_id"]]["solution"].splitlines(keepends=True)
        wrong = [
            m for m, line in enumerate(row["completions"], 1) if line not in reference[m - 1 : m]
        ]
        failing += 1
        exact += wrong[:1] == [meta["first_bad"]]
    assert failing > 10 and exact > 0.7 * failing  # here nearly every right line is the reference's


def test_the_report_counts_what_is_in_the_file(labelled):
    _, folder = labelled
    rows, report = (
        common.read_jsonl(folder / "prm.jsonl", {}),
        json.loads((folder / "prm.report.json").read_text()),
    )
    labels = [x for row in rows for x in row["labels"]]
    counts = {
        "positive": labels.count(1.0),
        "negative": labels.count(-1.0),
        "zero": labels.count(0.0),
    }
    assert report["labels"] == {name: count for name, count in counts.items() if count}
    assert report["passed"] + report["failed"] == report["responses"] == 48
    assert (
        report["failed"]
        == sum(report["first_bad"].values())
        == sum(not row["meta"]["passed"] for row in rows)
    )
    assert report["prompts_kept"]["full"] == 12 and report["rows"] == len(rows)
    assert report["prompts_kept"]["revised_only"] == len(
        {r["task_id"] for r in rows if r["meta"]["n_revised"]}
    )
    assert report["probes"] == sum(row["meta"]["probes"] for row in rows)
    assert 0 < report["executions"] <= report["responses"] + report["completions"]


def test_the_search_of_a_run_is_made_of_its_flags_and_of_seeds_that_all_differ(
    folders, monkeypatch
):
    calls, label_all = [], search.label_responses
    monkeypatch.setattr(search, "label_responses", lambda *a: calls.append(a) or label_all(*a))
    flags = {"temperature": 0.8, "num_completions": 6, "search": "linear", "batch_size": 3}
    search.main(config_of(folders, share_completions=True, **flags))
    assert {call[9:] for call in calls} == {(6, "linear", False, 0.8, 24, 3, True)}
    seeds = [seed for call in calls for seed in call[8]]
    assert len(set(seeds)) == len(seeds) > 20  # of every policy, task and response
