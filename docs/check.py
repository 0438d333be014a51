"""Checks the exercises of docs/exercises.md.

    python docs/check.py 1a 100      # a number or a word
    python docs/check.py 6b          # a change: loads my_ppo.py from the current folder

Each check is a function below. Reading it before trying spoils the exercise.
"""

import importlib.util
import math
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import common  # noqa: E402
import grpo  # noqa: E402
import ppo  # noqa: E402
import sandbox  # noqa: E402
from benchmarks import micro  # noqa: E402
from kernels import advantages  # noqa: E402
from prm_data import prefix_search  # noqa: E402


class NotYet(Exception):
    """The answer is not right; the text is the hint that the reader sees."""


def expect(condition: bool, hint: str) -> None:
    if not condition:
        raise NotYet(hint)


def is_number(answer: str, value: float, tolerance: float = 1e-2) -> None:
    """The answer is the value, within a share of it (or that much, where the value is 0)."""
    expect(abs(float(answer) - value) <= tolerance * (abs(value) or 1), "another number")


def mine(file: str):
    """The reader's file of this name, as a module."""
    path = Path(file)
    expect(path.is_file(), f"{file} is not in this folder")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def close(result: torch.Tensor, expected: torch.Tensor, hint: str) -> None:
    expect(torch.allclose(result.double(), expected.double(), atol=1e-5), hint)


def verdicts(task: dict, *programs: str) -> list[dict]:
    with sandbox.Sandbox(timeout=2.0) as runner:
        return runner.judge([(task, program) for program in programs])


def check_1a(answer: str) -> None:
    config = micro.Config("x")
    span = config.max_steps - config.min_steps + 1
    lengths = [config.min_steps + number % span for number in range(config.num_test_tasks)]
    is_number(answer, lengths.count(5), 0)


def check_1b() -> None:
    expect(Path("my_tasks.jsonl").is_file(), "my_tasks.jsonl is not in this folder")
    rows = common.read_jsonl("my_tasks.jsonl", common.PROMPT_FIELDS, sandbox.check_task)
    expect(len(rows) == 1 and rows[0]["style"] == "call", "one row, of style call")
    bodies = ["sorted(xs)", "xs", "sorted(set(xs))", "sorted(xs)[::-1]", "sorted(xs)[:3]"]
    bodies += ["sorted(xs, key=abs)", "sorted(xs)[1:]", "list(map(abs, sorted(xs)))", "xs[::-1]"]
    right, *wrong = verdicts(rows[0], *(f"def f(xs):\n    return {body}\n" for body in bodies))
    expect(right["status"] == "passed", "a program that sorts fails")
    passing = [
        body
        for body, verdict in zip(bodies[1:], wrong, strict=True)
        if verdict["status"] == "passed"
    ]
    expect(not passing, f"a wrong program passes: return {', '.join(passing)}")


def check_1c(answer: str) -> None:
    v = int(answer)
    expect((v < 6) != (v <= 6), "both keep it, or neither does")


def check_2a(answer: str) -> None:
    task = {"task_id": "t", "prompt": "", "entry_point": "f", "style": "call"}
    task["tests"] = [{"args": [1], "output": 1}]
    (verdict,) = verdicts(task, "def f(x):\n    return f(x)\n")
    expect(answer == verdict["status"], "another status")


def check_2b() -> None:
    expect(Path("my_program.py").is_file(), "my_program.py is not in this folder")
    task = {"task_id": "t", "prompt": "", "entry_point": "f", "style": "call"}
    task["tests"] = [{"args": [n], "output": n * n} for n in (3, 10, 11)]
    (verdict,) = verdicts(task, Path("my_program.py").read_text())
    expect(
        (verdict["status"], verdict["passed"]) == ("failed", 2),
        f"the verdict is {verdict['status']}, {verdict['passed']} passed",
    )


def check_2c(answer: str) -> None:
    is_number(answer, common.pass_rate([(3, 2)])[0])


def check_3a(answer: str) -> None:
    is_number(answer, (10 * 1.0 + 30 * 0.2) / (10 + 30))


def check_3b() -> None:
    rows = [
        {"prompt": "a\n", "completion": "x"},
        {"prompt": "a\n", "solution": "x", "completion": "y"},
        {"prompt": "a\n", "solution": "x"},
        {"prompt": "b\n", "completion": "x"},
        {"prompt": "a\n", "solution": "px", "prefix": "p"},
        {"prompt": "a\n", "completion": "z"},
    ]
    rows = [{"task_id": str(number), **row} for number, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/rows.jsonl"
        common.write_jsonl(path, rows)
        read = mine("my_sft.py").read_rows(path)
    pairs = [(row["prompt"], row["completion"]) for row in read]
    expected = [("a\n", "x"), ("a\n", "y"), ("b\n", "x"), ("a\n", "z")]
    expect(pairs == expected, "a row is missing, or stands twice, or the order is another")


def check_3c(answer: str) -> None:
    is_number(answer, common.lr_at(24, 2e-3, 50, 600, "cosine"))


def probes(search, first_bad: int) -> tuple[int, int]:
    """What a search returns for a response whose first bad line is known, and its questions."""
    asked, answer = 0, None
    try:
        while True:
            line = search.send(answer)
            asked, answer = asked + 1, line < first_bad
    except StopIteration as end:
        return end.value, asked


def check_4a(answer: str) -> None:
    most = max(probes(prefix_search.binary_search(8), bad)[1] for bad in range(1, 9))
    is_number(answer, most, 0)


def check_4b() -> None:
    label_of = mine("my_labels.py").label_of
    mutation, refactoring = SimpleNamespace(intent="mutate"), SimpleNamespace(intent="refactor")
    for equivalent, passing in (("drop", None), ("positive", 1.0), ("neutral", 0.0)):
        for variant, expected in ((mutation, passing), (refactoring, 1.0)):
            label = label_of(variant, "passed", equivalent)
            expect(label == expected and (label is None) == (expected is None), "what passes")
            for status in ("failed", "error", "timeout", "memory", "syntax_error"):
                expect(label_of(variant, status, equivalent) == -1.0, "what fails is wrong")
            expect(label_of(variant, "harness_error", equivalent) is None, "there is no verdict")


def check_4c() -> None:
    search = mine("my_search.py").galloping_search
    for lines in range(1, 70):
        for bad in range(1, lines + 1):
            found, asked = probes(search(lines), bad)
            wanted = probes(prefix_search.binary_search(lines), bad)[0]
            expect(found == wanted, f"of {lines} lines, line {bad} is bad, not {found}")
            expect(asked <= 2 * math.log2(bad) + 2, f"{asked} questions for line {bad}")


def check_5a(answer: str) -> None:
    is_number(answer, 1.0)


def check_5b() -> None:
    torch.manual_seed(0)
    loss_terms = mine("my_train_prm.py").loss_terms
    logits = torch.randn(3, 5, 1) * 2
    rows = [{"labels": [1.0, None, -1.0]}, {"labels": [0.0]}, {"labels": [-1.0] * 4 + [1.0]}]
    error = [
        float(logits[b, m, 0]) - label
        for b, row in enumerate(rows)
        for m, label in enumerate(row["labels"])
        if label is not None
    ]
    expected = [e * e / 2 if abs(e) <= 1 else abs(e) - 0.5 for e in error]
    # P, the places at which logits are read, is that of the longest row.
    result = loss_terms("regression", logits, rows)
    expect(result.shape == (len(expected),), "one term a labelled line")
    close(result, torch.tensor(expected), "a term is not the Huber loss")
    p = loss_terms("classification", logits, rows)
    expect(float(p.min()) >= 0 and len(p) == len(expected), "classification has changed")


def check_5c(answer: str) -> None:
    scores = torch.tensor([0.8] * 10 + [-0.8] * 10)
    right = torch.tensor([True] * 7 + [False] * 3 + [True] + [False] * 9)
    is_number(answer, common.calibration(scores, right)["expected_calibration_error"])


def config_of(stage, **flags):
    return stage.Config(tasks="t", model_name_or_path="m", output_dir="o", **flags)


def check_6a(answer: str) -> None:
    scores, on = torch.tensor([[1.0, 1.0, 1.0, -0.2]]), torch.ones(1, 4).bool()
    failed = torch.zeros(1).bool()
    rewards = ppo.compose_rewards(failed.float(), failed, scores, on, on, on, config_of(ppo))
    is_number(answer, float(rewards.sum()))


def check_6b() -> None:
    module = mine("my_ppo.py")
    torch.manual_seed(0)
    for norm in ("lines", "none"):
        config = config_of(module, process_norm=norm)
        passed = torch.rand(40) < 0.5
        length = torch.randint(1, 13, (40, 1))
        mask = torch.arange(12) < length
        ends = mask & (torch.rand(40, 12) < 0.5)
        scores = torch.randn(40, 12)  # also where no line ends: nobody reads it there
        expected = torch.zeros(40, 12)
        for b in range(40):
            places = ends[b].nonzero().flatten().tolist()
            weight = 0.025 if passed[b] else 0.25
            for t in places:
                divisor = len(places) if norm == "lines" else 1
                expected[b, t] = weight * scores[b, t].clamp(-1, 1) / divisor
                if scores[b, t] < 0:
                    break
            expected[b, int(length[b]) - 1] += float(passed[b])
        rewards = module.compose_rewards(passed.float(), passed, scores, ends, ends, mask, config)
        close(rewards, expected, "a line after the first bad one is paid, or another is not")


def check_6c() -> None:
    module = mine("my_ppo.py")
    torch.manual_seed(0)
    logprobs, old = torch.randn(4, 9) * 2, torch.randn(4, 9) * 2
    advantages_, mask = torch.randn(4, 9), torch.rand(4, 9) < 0.8
    logprobs.requires_grad_()
    loss, *_ = module.policy_loss(logprobs, old, advantages_, mask, 0.2, 0.28)
    loss.backward()
    ratio = (logprobs.detach() - old).exp()
    plain = torch.minimum(ratio * advantages_, ratio.clamp(0.8, 1.28) * advantages_)
    floor = torch.maximum(plain, 3 * advantages_)
    expected = torch.where(advantages_ < 0, floor, plain) * mask
    close(loss, -expected.sum(), "the loss is another")
    cut = (plain < floor) & (advantages_ < 0)
    expect(bool((logprobs.grad[cut] == 0).all()), "a token at the bound still has a gradient")
    expect(bool((logprobs.grad[mask & ~cut] != 0).any()), "no token has a gradient")


def check_7a(answer: str) -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0])
    is_number(answer, float(advantages.group_advantages(rewards, torch.zeros(4).long())[0]))


def check_7b() -> None:
    module = mine("my_grpo.py")
    torch.manual_seed(0)
    total = torch.randint(1, 9, (60,))
    passing = (torch.rand(60) * (total + 1)).long()
    rate, form, process = passing / total, (torch.rand(60) < 0.8).float(), torch.rand(60)
    terms = (passing == total, rate, form, process)
    for gate in ("soft", "none"):
        expected = grpo.compose_rewards(*terms, config_of(grpo, gate=gate))
        result = module.compose_rewards(*terms, config_of(module, gate=gate))
        close(result, expected, f"--gate {gate} has changed")
    expected = form + terms[0].float() + (2 * passing >= total) * process * 0.5
    result = module.compose_rewards(*terms, config_of(module, gate="hard", process_weight=0.5))
    close(result, expected, "--gate hard opens at another share of the tests")


def check_7c(answer: str) -> None:
    is_number(answer, 0.9**8 + 0.1**8)


def check_8a(answer: str) -> None:
    is_number(answer, math.log(2))


def check_8b() -> None:
    module = mine("my_dpo.py")
    torch.manual_seed(0)
    logps, reference = torch.randn(2, 30) * 10, torch.randn(2, 30) * 10
    for loss_type in ("sigmoid", "ipo"):
        config = module.Config(
            data="d", model_name_or_path="m", output_dir="o", beta=0.3, loss_type=loss_type
        )
        losses, rewards = module.dpo_loss(logps, reference, torch.ones(2, 30), config)
        ratio = logps - reference
        h = ratio[0] - ratio[1]
        expected = (1 - 0.3 * h).clamp(min=0) if loss_type == "sigmoid" else (h - 1 / 0.6).square()
        expect(torch.allclose(losses, expected, atol=1e-4), f"--loss_type {loss_type}")
        close(rewards, 0.3 * ratio, "the implicit rewards have changed")


def check_8c(answer: str) -> None:
    is_number(answer, 0.1 * (2 - -3))


def check_9a(answer: str) -> None:
    is_number(answer, common.pass_at_k(4, 1, 2))


def check_9b() -> None:
    all_pass = mine("my_eval.py").all_pass
    for n in range(1, 9):
        for c in range(n + 1):
            for k in range(1, n + 1):
                value = math.comb(c, k) / math.comb(n, k)
                expect(abs(all_pass(n, c, k) - value) < 1e-9, f"n = {n}, c = {c}, k = {k}")


def check_9c(answer: str) -> None:
    rankers = {"ranker": [0.2, 0.9, 0.9]}
    samples = [{"task_id": "t", "status": s} for s in ("failed", "passed", "failed")]
    is_number(answer, common.best_of_n_report(samples, rankers)["rankers"]["ranker"]["pass@1"])


CHECKS = {name.removeprefix("check_"): f for name, f in globals().items() if name[:6] == "check_"}


def main(argv: list[str]) -> int:
    number, *answer = argv or [""]
    if number not in CHECKS:
        print(f"usage: python docs/check.py EXERCISE [ANSWER]; exercises: {', '.join(CHECKS)}")
        return 2
    takes_answer = CHECKS[number].__code__.co_argcount
    if len(answer) != takes_answer:
        print(f"{number} {'needs an answer' if takes_answer else 'takes no answer'}")
        return 2
    try:
        CHECKS[number](*answer)
    except NotYet as hint:
        print(f"{number}: not yet: {hint}")
        return 1
    except (ValueError, common.InputError) as error:
        print(f"{number}: {error}")
        return 2
    print(f"{number}: right")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
