"""Pairs for dpo.py from process rewards: pairs.jsonl.

PRLCoder (Ye et al., EMNLP 2025) reports that DPO on process supervision works, and does not say how
its pairs are made. Both likely ways are here:

--pairs response  Samples of one prompt, ranked. The best sample of a task against its worst; with
                  --min_margin every pair that is further apart, widest first. The seed breaks ties.
                  --rank_by prm: by the scores of a line PRM, aggregated over the program's lines.
                  The paper is silent on --aggregate: the mean stands in,
                  so that length does not pay; min is the score of the weakest line; sum is
                  PRLCoder's reward in PPO (its eq. 2).
                  --rank_by tests: chosen passes and rejected fails, the control on the same
                  samples.
--pairs step      The reference's line against a changed line that failed the tests, after the same
                  lines: from the prm.jsonl of --method mutate with --packing prefix (as the steps
                  of Lai et al., 2024, Step-DPO). Both texts end in mid-program and say so
                  (`"complete": false`): no end of sequence is learned there. They end with the
                  newline of their line, so that a line differs from a longer one that begins alike.
                  Where a tokenizer merges that newline with the indentation of the next line
                  (SmolLM2), the last token of both texts is not the one of the whole programs; all
                  other tokens are. Where it does not (Qwen2.5-Coder, the micro benchmark), all are.

Identical completions are never paired. Neither is a sample that was cut off at its length limit
(`terminated` is false), a sample without a verdict (--rank_by tests), or one without a line
(--rank_by prm).

    python make_prm_data.py --method rank --pairs response --tasks train.jsonl \\
        --samples runs/samples/verdicts.jsonl --prm runs/prm --output_file pairs.jsonl
    python make_prm_data.py --method rank --pairs response --rank_by tests --tasks train.jsonl \\
        --samples runs/samples/verdicts.jsonl --output_file pairs.jsonl
    python make_prm_data.py --method rank --pairs step --data prm.jsonl --output_file pairs.jsonl
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import common
from common import InputError, InputFile, NonNegativeFloat, OutputFile, PositiveInt
from prm_data import rows


@dataclass
class Config:
    output_file: OutputFile  # pairs.jsonl
    method: Literal["rank"] = "rank"
    # whole samples, or one line after the same lines
    pairs: Literal["response", "step"] = "response"
    tasks: InputFile | None = None  # response: tasks.jsonl that was sampled from
    # response: samples.jsonl of eval.py; for --rank_by tests its verdicts.jsonl
    samples: InputFile | None = None
    rank_by: Literal["prm", "tests"] = "prm"  # response: score of --prm, or passing before failing
    prm: str | None = None  # response: line-level reward model
    aggregate: Literal["sum", "mean", "min"] = "mean"  # response: one score from those of the lines
    # response: pairs further apart than this; none: the best against the worst alone
    min_margin: NonNegativeFloat | None = None
    # response: auto: as the PRM's config.json says, or by the chat template, if there is one
    prompt_format: Literal["auto", "chat", "plain"] = "auto"
    data: InputFile | None = None  # step: prm.jsonl of --method mutate --packing prefix
    max_pairs_per_task: PositiveInt = 8
    per_device_eval_batch_size: PositiveInt = 64  # response: samples a forward pass of the PRM
    seed: int = 0


def prm_scores(
    model, tokenizer, tasks: list[dict], samples: list[dict], config: Config
) -> list[float]:
    """One score a completion: those of its program's lines, aggregated; NaN without a line."""
    completions = [row["completion"] for row in samples]
    size = config.per_device_eval_batch_size
    lines = common.score_text_lines(
        model, tokenizer, tasks, completions, size, "samples scored", path=config.prm
    )
    programs = map(common.extract_program, tasks, map(common.judged_text, samples))
    found = common.of_program_lines(lines, programs, completions)
    scores = [common.reduce_lines(row, config.aggregate) for row in found]
    return [math.nan if score == -math.inf else score for score in scores]


def best_pairs(
    scores: list[float], min_margin: float | None, max_pairs: int, seed: int
) -> list[tuple[int, int]]:
    """Pairs (chosen, rejected) of indices into scores, widest first, ties in the seed's order.

    A score of NaN is in no pair. min_margin None: the widest pair alone.
    """
    shuffled = common.shuffled(len(scores), seed, "rank ties")
    scored = [i for i in shuffled if not math.isnan(scores[i])]
    least = max(0.0, min_margin or 0.0)
    found = [(i, j) for i in scored for j in scored if scores[i] - scores[j] > least]
    found.sort(key=lambda pair: scores[pair[1]] - scores[pair[0]])
    return found[: 1 if min_margin is None else max_pairs]


def response_pairs(config: Config) -> tuple[list[dict], int]:
    """Rows of pairs.jsonl from ranked samples; and how many samples lack the verdict that they
    would be ranked by."""
    read = common.read_jsonl(config.tasks, common.PROMPT_FIELDS)
    rows.check_unique(read, config.tasks)
    tasks = {task["task_id"]: task for task in read}

    def check(row):
        common.check_known_task(row, tasks)
        if config.rank_by == "tests" and not isinstance(row.get("status"), str):
            raise ValueError(
                "field 'status' must be str: --rank_by tests reads the verdicts.jsonl of eval.py"
            )

    distinct = {}
    for row in common.read_jsonl(config.samples, {"task_id": str, "completion": str}, check):
        distinct.setdefault((row["task_id"], row["completion"]), row)
    samples = [row for row in distinct.values() if row.get("terminated", True)]
    if config.rank_by == "tests":
        score_of = {"passed": 1.0, "harness_error": math.nan}
        scores = [score_of.get(row["status"], 0.0) for row in samples]
    else:
        common.check_model("prm", config.prm)
        model = common.shard(common.load_scorer(config.prm, wanted="prm").eval())
        if config.prompt_format != "auto":
            model.config.update({"prompt_format": config.prompt_format, "system_prompt": None})
        tokenizer = common.load_tokenizer(config.prm)
        common.check_line_tokens(config.prm, model, tokenizer)
        prompted = [tasks[row["task_id"]] for row in samples]
        scores = prm_scores(model, tokenizer, prompted, samples, config)
    by_task = defaultdict(list)
    for row, score in zip(samples, scores, strict=True):
        by_task[row["task_id"]].append((row, score))
    pairs = []
    for name, scored in by_task.items():
        seed = common.seed_of(config.seed, "rank", name)
        values = [score for _, score in scored]
        for i, j in best_pairs(values, config.min_margin, config.max_pairs_per_task, seed):
            (chosen, high), (rejected, low) = scored[i], scored[j]
            meta = {
                "rank_by": config.rank_by,
                "score_chosen": high,
                "score_rejected": low,
                "status_chosen": chosen.get("status"),
                "status_rejected": rejected.get("status"),
            }
            texts = chosen["completion"], rejected["completion"]
            pairs.append(pair_of(tasks[name], *texts, "response", meta))
    statuses = [(pair["meta"]["status_chosen"], pair["meta"]["status_rejected"]) for pair in pairs]
    right = sum(chosen == "passed" != rejected for chosen, rejected in statuses)
    print(
        f"{len(samples)} distinct samples of {len(by_task)} tasks; "
        f"{right} of {len(pairs)} pairs are known to pass against fail"
    )
    unjudged = sum(row["status"] == "harness_error" for row in samples if config.rank_by == "tests")
    return pairs, unjudged


def step_pairs(config: Config) -> list[dict]:
    """Rows of pairs.jsonl from the labelled lines of --method mutate."""
    labelled = common.read_jsonl(config.data, {**common.PRM_FIELDS, "origin": str}, check_changed)
    references = {row["task_id"]: row for row in labelled if row["origin"] == "reference"}
    by_task, left_out, seen = defaultdict(list), 0, set()
    for row in labelled:
        changed = row["meta"]["changed"]
        if row["origin"] == "reference" or len(changed) != 1:
            continue
        (number,) = changed
        if row["labels"][number] is None or row["labels"][number] > 0:
            continue
        before, line = row["completions"][:number], row["completions"][number]
        right = line_after(before, references.get(row["task_id"]))
        if right is None:
            left_out += 1
            continue
        chosen, rejected = "".join([*before, right]), "".join([*before, line])
        if chosen != rejected and (row["task_id"], rejected) not in seen:
            seen.add((row["task_id"], rejected))
            meta = {"line": number, "operators": row["meta"].get("operators")}
            by_task[row["task_id"]].append(pair_of(row, chosen, rejected, "step", meta))
    print(
        f"{sum(map(len, by_task.values()))} verified negative lines have a reference line "
        f"in their place, {left_out} do not"
    )
    pairs = []
    for name, found in by_task.items():
        drawn = common.shuffled(len(found), common.seed_of(config.seed, "rank", name), "step pairs")
        pairs += [found[i] for i in sorted(drawn[: config.max_pairs_per_task])]
    return pairs


def check_changed(row: dict) -> None:
    """Raises ValueError for a row of prm.jsonl that does not say which of its lines are changed."""
    common.check_prm_row(row)
    meta = row.get("meta")
    changed = meta.get("changed") if isinstance(meta, dict) else None
    places = range(len(row["labels"]))
    if not isinstance(changed, list) or not all(type(i) is int and i in places for i in changed):
        raise ValueError("field 'meta' must hold 'changed', a list of indices of lines")


def line_after(before: list[str], reference: dict | None) -> str | None:
    """The reference's line after these lines; None where it begins otherwise, or has no label +1.

    The reference begins otherwise than a changed block whose first changed line is not the last.
    """
    number = len(before)
    if reference is None or reference["completions"][:number] != before:
        return None
    if number >= len(reference["labels"]) or (reference["labels"][number] or 0) <= 0:
        return None
    return reference["completions"][number]


def pair_of(task: dict, chosen: str, rejected: str, kind: str, meta: dict) -> dict:
    """One row of pairs.jsonl. `complete`: the texts end where a completion ends."""
    row = rows.pair_row(task, chosen, rejected, kind)
    return row | {"complete": kind == "response", "meta": meta} | rows.prefix_of(task)


def main(config: Config) -> None:
    needed = ["data"] if config.pairs == "step" else ["tasks", "samples"]
    needed += ["prm"] if config.pairs == "response" and config.rank_by == "prm" else []
    ranked = f" --rank_by {config.rank_by}" if config.pairs == "response" else ""
    for name in needed:
        if getattr(config, name) is None:
            raise InputError(f"--{name} is required for these pairs (--help lists all flags)")
    for name in ("tasks", "samples", "prm", "data"):
        if name not in needed and getattr(config, name) is not None:
            raise InputError(f"--{name} has no use for --pairs {config.pairs}{ranked}")
    if common.world_size() > 1:
        raise InputError("--method rank runs in one process")
    if rows.is_complete(config):
        return
    if config.pairs == "step":
        pairs, unjudged = step_pairs(config), 0
    else:
        pairs, unjudged = response_pairs(config)
    if not pairs:
        raise InputError(f"{config.data or config.samples}: no two texts of one task can be ranked")
    print(f"{len(pairs)} pairs of {len({pair['task_id'] for pair in pairs})} tasks")
    rows.write_result(config, pairs, unjudged)
