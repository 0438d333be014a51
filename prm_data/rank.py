"""Pairs for dpo.py from process rewards: pairs.jsonl.

PRLCoder (Ye et al., EMNLP 2025) reports that DPO on process supervision works, and does not say how its pairs are made.
Both likely ways are here:

--pairs response  Samples of one prompt, ranked. --rank_by prm: by the score of a line PRM, read at the last token of
                  each line and aggregated over the lines. The paper is silent on --aggregate: the mean stands in, so
                  that length does not pay; min asks for the weakest line, sum is PRLCoder's reward in PPO (its eq. 2).
                  --rank_by tests: chosen passes and rejected fails, the control on the same samples.
                  The best sample of a task against its worst; with --min_margin every pair that is further apart than
                  that, widest first. Ties are broken by the seed.
--pairs step      The reference's line against a changed line that failed the tests, after the same lines: from the
                  prm.jsonl of --method mutate with --packing prefix (as the steps of Lai et al., 2024, Step-DPO). Both
                  texts end in mid-program and say so (`"complete": false`): no end of sequence is learned there.

Identical completions are never paired, and neither is a sample that was cut off at its length limit (`terminated` is
false), one without a verdict (--rank_by tests) or one without a line (--rank_by prm).

    python make_prm_data.py --method rank --pairs response --tasks train.jsonl --samples runs/samples/verdicts.jsonl \\
        --prm runs/prm --output_file pairs.jsonl
    python make_prm_data.py --method rank --pairs response --rank_by tests --tasks train.jsonl \\
        --samples runs/samples/verdicts.jsonl --output_file pairs.jsonl
    python make_prm_data.py --method rank --pairs step --data prm.jsonl --output_file pairs.jsonl
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch

import common
from common import InputError
from kernels import masking
from prm_data import gold


@dataclass
class Config:
    output_file: str  # pairs.jsonl
    method: Literal["rank"] = "rank"
    pairs: Literal["response", "step"] = (
        "response"  # whole samples, or one line after the same lines
    )
    tasks: str | None = None  # response: tasks.jsonl that was sampled from
    samples: str | None = (
        None  # response: samples.jsonl of eval.py; for --rank_by tests its verdicts.jsonl
    )
    rank_by: Literal["prm", "tests"] = "prm"  # response: score of --prm, or passing before failing
    prm: str | None = None  # response: line-level reward model
    aggregate: Literal["sum", "mean", "min"] = "mean"  # response: one score from those of the lines
    min_margin: float | None = (
        None  # response: pairs further apart than this; none: the best against the worst alone
    )
    data: str | None = None  # step: prm.jsonl of --method mutate --packing prefix
    max_pairs_per_task: int = 8
    per_device_eval_batch_size: int = 64  # response: samples a forward pass of the PRM
    seed: int = 0


@torch.no_grad()
def prm_scores(
    model, tokenizer, tasks: list[dict], completions: list[str], config: Config
) -> list[float]:
    """One score a completion: those of its lines, each read at the line's last token, aggregated. NaN without a line."""
    table = common.line_table(tokenizer)
    prompts = [common.encode_prompt(tokenizer, task) for task in tasks]
    texts = [tokenizer(text, add_special_tokens=False).input_ids for text in completions]
    scores = [float("nan")] * len(texts)
    order = sorted(
        (i for i in range(len(texts)) if texts[i]), key=lambda i: len(prompts[i]) + len(texts[i])
    )
    bar = common.progress_bar("samples scored", len(order))
    for start in range(0, len(order), config.per_device_eval_batch_size):
        rows = order[start : start + config.per_device_eval_batch_size]
        ids, mask = common.pad_pairs(
            [prompts[i] for i in rows], [texts[i] for i in rows]
        )  # (B, L), (B, L)
        ends = masking.line_ends(ids, mask, table)  # (B, L)
        values = common.scores_of(model, ids)  # (B, L)
        for i, row, at_end in zip(rows, values, ends, strict=True):
            lines = row[at_end]  # (lines,)
            if len(lines):
                scores[i] = float(
                    {"sum": torch.sum, "mean": torch.mean, "min": torch.min}[config.aggregate](
                        lines
                    )
                )
        bar.update(len(rows))
    bar.close()
    return scores


def best_pairs(
    scores: list[float], min_margin: float | None, max_pairs: int, seed: int
) -> list[tuple[int, int]]:
    """Pairs (chosen, rejected) of indices into scores, widest first, ties in the seed's order. NaN is never paired."""
    places = [i for i in common.shuffled(len(scores), seed, "rank ties") if scores[i] == scores[i]]
    least = 0.0 if min_margin is None else min_margin
    found = [
        (i, j)
        for i in places
        for j in places
        if scores[i] > scores[j] and scores[i] - scores[j] > least
    ]
    found.sort(key=lambda pair: scores[pair[1]] - scores[pair[0]])
    return found[: 1 if min_margin is None else max_pairs]


def response_pairs(config: Config) -> list[dict]:
    tasks = {
        task["task_id"]: task for task in common.read_jsonl(config.tasks, common.PROMPT_FIELDS)
    }

    def check(row):
        if row["task_id"] not in tasks:
            raise ValueError(f"field 'task_id': no task {row['task_id']!r}")
        if config.rank_by == "tests" and not isinstance(row.get("status"), str):
            raise ValueError(
                "field 'status' must be str: --rank_by tests reads the verdicts.jsonl of eval.py"
            )

    samples = {}
    for row in common.read_jsonl(config.samples, {"task_id": str, "completion": str}, check):
        samples.setdefault(
            (row["task_id"], row["completion"]), row
        )  # identical completions are one
    rows = [row for row in samples.values() if row.get("terminated", True)]
    if config.rank_by == "tests":
        value = {"passed": 1.0, "harness_error": float("nan")}
        scores = [value.get(row["status"], 0.0) for row in rows]
    else:
        model, tokenizer = (
            common.shard(common.load_scorer(config.prm).eval()),
            common.load_tokenizer(config.prm),
        )
        row_tasks = [tasks[row["task_id"]] for row in rows]
        scores = prm_scores(
            model, tokenizer, row_tasks, [row["completion"] for row in rows], config
        )
    of_task = defaultdict(list)
    for row, score in zip(rows, scores, strict=True):
        of_task[row["task_id"]].append((row, score))
    pairs = []
    for name, scored in of_task.items():
        seed = common.seed_of(config.seed, "rank", name)
        for i, j in best_pairs(
            [score for _, score in scored], config.min_margin, config.max_pairs_per_task, seed
        ):
            (chosen, high), (rejected, low) = scored[i], scored[j]
            meta = {"rank_by": config.rank_by, "score_chosen": high, "score_rejected": low}
            meta |= {
                "status_chosen": chosen.get("status"),
                "status_rejected": rejected.get("status"),
            }
            pairs.append(
                pair_of(tasks[name], chosen["completion"], rejected["completion"], "response", meta)
            )
    right = sum(
        pair["meta"]["status_chosen"] == "passed" != pair["meta"]["status_rejected"]
        for pair in pairs
    )
    print(f"{len(rows)} distinct samples of {len(of_task)} tasks; "
          f"{right} of {len(pairs)} pairs are known to pass against fail")  # fmt: skip
    return pairs


def step_pairs(config: Config) -> list[dict]:
    fields = {**common.PROMPT_FIELDS, "completions": list, "labels": list, "origin": str}
    rows = common.read_jsonl(config.data, fields)
    references = {row["task_id"]: row for row in rows if row["origin"] == "reference"}
    of_task, left_out, seen = defaultdict(list), 0, set()
    for row in rows:
        before, reference = row["completions"][:-1], references.get(row["task_id"])
        place = len(before)
        if row["origin"] == "reference" or row["labels"][-1] is None or row["labels"][-1] > 0:
            continue
        fits = reference is not None and reference["completions"][:place] == before
        if not fits or place >= len(reference["labels"]) or (reference["labels"][place] or 0) <= 0:
            left_out += 1  # a block that begins above its last line, or the reference has no statement in this place
            continue
        chosen, rejected = (
            "".join([*before, reference["completions"][place]]),
            "".join(row["completions"]),
        )
        if chosen != rejected and (row["task_id"], rejected) not in seen:
            seen.add((row["task_id"], rejected))
            meta = {"line": place, "operators": row.get("meta", {}).get("operators")}
            of_task[row["task_id"]].append(pair_of(row, chosen, rejected, "step", meta))
    print(f"{sum(map(len, of_task.values()))} verified negative lines have a reference line in their place, "
          f"{left_out} do not")  # fmt: skip
    pairs = []
    for name, found in of_task.items():
        drawn = common.shuffled(len(found), common.seed_of(config.seed, "rank", name), "step pairs")
        pairs += [found[i] for i in sorted(drawn[: config.max_pairs_per_task])]
    return pairs


def pair_of(task: dict, chosen: str, rejected: str, kind: str, meta: dict) -> dict:
    """One row of pairs.jsonl. `complete` says whether the texts end where a completion ends."""
    row = {
        "prompt": task["prompt"],
        "chosen": chosen,
        "rejected": rejected,
        "task_id": task["task_id"],
        "kind": kind,
    }
    return (
        row
        | {"complete": kind == "response", "meta": meta}
        | ({"prefix": task["prefix"]} if task.get("prefix") else {})
    )


def main(config: Config) -> None:
    needed = ["data"] if config.pairs == "step" else ["tasks", "samples"]
    needed += ["prm"] if config.pairs == "response" and config.rank_by == "prm" else []
    for name in needed:
        if getattr(config, name) is None:
            raise InputError(f"--{name} is required for these pairs (--help lists all flags)")
    if common.world_size() > 1:
        raise InputError("--method rank runs in one process")
    common.check_model_folder(config.prm)
    if gold.is_complete(config):
        return
    pairs = step_pairs(config) if config.pairs == "step" else response_pairs(config)
    if not pairs:
        raise InputError(f"{config.data or config.samples}: no two texts of one task can be ranked")
    print(f"{len(pairs)} pairs of {len({pair['task_id'] for pair in pairs})} tasks")
    common.write_jsonl(config.output_file, pairs)
