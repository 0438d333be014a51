"""Line labels from the policy itself: which prefixes of its responses can still be completed.

PSGPO (Dai et al., 2024), algorithm 1. Each policy (the paper: four checkpoints, evenly spaced along
a baseline RL run) answers each prompt --num_generations times. A response that passes its tests has
+1 on every line, without a search. A failing response has T lines, and its prefix of m lines is
recoverable when any of K sampled completions of the prefix passes all tests. A binary search looks
for the first line from which no prefix is recoverable:

    L, R = 1, T;  first_bad = T
    while L <= R:                                     labels: +1  before first_bad
        m = (L + R) // 2                                      -1  from first_bad on
        recoverable: L = m + 1                                 0  comment lines
        otherwise:   first_bad = m;  R = m - 1

The search asks about at most ceil(log2(T + 1)) prefixes. We do not ask about prefix T, the paper's
last question when all shorter prefixes are recoverable: first_bad is T after either answer.

Prefixes are cut between sampled tokens: prefix m ends with the token in which line m ends. Such a
token may hold the beginning of the next line, and the prefix then holds this beginning too. The
token is one action of the policy, and a PRM reads the score of line m there. Two lines that end in
one token have the same prefix.

The lines are those of the program (common.program_lines), as reinforcement learning reads them.
Prose, fences and tags that a chat model writes around the program are in the row, without a label:
T counts the program's lines, the search asks about them alone, and what is a comment or a docstring
is read in the program. `first_bad` counts the lines of the whole answer. A completed prefix is one
of the whole answer, with all that stands before the program. An answer without a line of its
program in it (an empty fence, say) has no row.

Where the paper is silent:
- Completions are sampled at temperature 1, by the policy that wrote the response (--completer: by
  another model with the same tokenizer).
- Completions end where a response would: at --max_completion_length tokens, the prefix included.
- Completions are drawn in two halves, the second half only if no completion of the first passes.
  This changes no answer.
- Blank lines and docstrings are neutral (0), as comments are. A null would leave their score to
  chance, and they are as cheap to write as comments.
- A completion without a verdict counts nowhere. A response without a verdict is left out, and so is
  a response with a prefix none of whose completions has a verdict.

--search linear       asks each line from the first on until a prefix is unrecoverable;
--search exhaustive   asks every line. A completion of prefix m completes every shorter prefix too,
                      so all lines up to the last recoverable prefix are +1, whatever the samples of
                      the shorter prefixes said.
--labels soft         the share p_m of passing completions, for passing responses too;
--labels marginal     p_m - p_(m-1), p_0 being the share for the prompt alone, without the prose
                      before the program. Soft and marginal labels need --search exhaustive and
                      ask for p_0.
--share_completions   ours, for hard labels: a passing response or completion proves for every
                      response to its prompt (of the same policy) that their common prefix is
                      recoverable, and first_bad moves behind this prefix. No further completion
                      is sampled. first_bad can only move to a later line: K failing completions
                      of a prefix prove nothing.
--mask_after_first_error   no label (null) after first_bad: the paper has -1 there.
--data_selection      which prompts are kept, by their responses: remove_hard (some response passes
                      or was revised), medium_only (some pass, some fail), revised_only (some
                      response was revised). A response is revised if it fails and a completion of
                      one of its prefixes passes. The paper words only revised_only, which did best;
                      the other two are our reading of their names.

    python make_prm_data.py --method search --tasks train.jsonl --output_file prm.jsonl \\
        --model_name_or_path runs/ppo/checkpoint-15 runs/ppo/checkpoint-30 \\
        runs/ppo/checkpoint-45 runs/ppo

(ppo.py --save_steps 15 --save_total_limit 0 keeps these checkpoints.)

    torchrun --standalone --nproc_per_node=8 make_prm_data.py --method search ...

Under torchrun the processes share each chunk's tasks, and each has the whole models. No row depends
on the number of processes, and a search may go on with another number.

The search is kept beside the output, chunk by chunk, in OUTPUT_FILE.progress: a run that was cut
off goes on from there, and searches anew the chunks that lack a verdict. Other flags for the rows
alone (--data_selection, --mask_after_first_error, --neutral_comments, soft for marginal labels)
write the rows anew without a search. So they do for another --output_file, once
OUTPUT_FILE.progress is copied beside it. Costs go to prm.report.json.
"""

import dataclasses
import json
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import common
import sandbox
from common import InputError, InputFile, OutputFile, PositiveFloat, PositiveInt
from prm_data import rows
from prm_data.prefix_search import Labelled, label_responses


@dataclass
class Config:
    tasks: InputFile  # tasks.jsonl
    # policies that answer; the paper: four checkpoints along a baseline RL run
    model_name_or_path: list[str]
    output_file: OutputFile  # prm.jsonl
    method: Literal["search"] = "search"
    num_generations: PositiveInt = 4  # responses a prompt and policy (the paper gives no number)
    num_completions: PositiveInt = 20  # K: completions of a prefix
    completer: str | None = None  # model that completes; none: the policy that wrote the response
    search: Literal["binary", "linear", "exhaustive"] = "binary"  # which prefixes are asked
    # any of K passes, or the share that does, or its change
    labels: Literal["hard", "soft", "marginal"] = "hard"
    # a passing completion counts for every response that begins as it does (ours)
    share_completions: bool = False
    mask_after_first_error: bool = False  # no label after the first bad line
    # comments, blank lines and docstrings have 0 (the paper); else their prefix's label
    neutral_comments: bool = True
    # prompts that are kept
    data_selection: Literal["full", "remove_hard", "medium_only", "revised_only"] = "full"
    # auto: by the chat template, if there is one
    prompt_format: Literal["auto", "chat", "plain"] = "auto"
    system_prompt: str | None = None  # chat: the turn before the user's
    temperature: PositiveFloat = 1.0  # of responses and completions
    max_completion_length: PositiveInt = 128  # tokens of a response, or of prefix and completion
    batch_size: PositiveInt = 64  # prompts or prefixes a sampling batch, a process
    bf16: bool | None = None  # models in bfloat16; default: on CUDA
    # prompts searched side by side, over all processes; what a run that is cut off loses at most
    chunk_size: PositiveInt = 64
    sandbox_workers: PositiveInt = 1  # processes that run programs, a process of the search
    sandbox_timeout: PositiveFloat = 3.0  # CPU seconds a program, where the task sets none
    packages: list[str] = field(default_factory=list)  # that programs may import, as numpy
    seed: int = 0


def is_kept(selection: str, n_pass: int, n_fail: int, n_revised: int) -> bool:
    """Whether a prompt with so many passing, failing and (of these) revised responses is kept."""
    return {
        "full": True,
        "remove_hard": n_pass + n_revised > 0,
        "medium_only": n_pass > 0 and n_fail > 0,
        "revised_only": n_revised > 0,
    }[selection]


def search_chunk(
    config: Config, policy, completer, tokenizer, table, runner, tasks: list[dict], index: int
) -> dict:
    """Responses of one policy to some tasks, labelled: one line of the progress file.

    Each process answers and searches its share of the tasks. The costs are summed, the seconds too.
    """
    started, responses, futures = time.perf_counter(), [], []
    tasks = common.my_share(tasks, even=False)
    prompt_format = common.prompt_format_of(config)

    def seeds_of(purpose: str, keys) -> list[int]:
        return [common.seed_of(config.seed, purpose, t["task_id"], index, n) for t, n in keys]

    for start in range(0, len(tasks), config.batch_size):
        batch = tasks[start : start + config.batch_size]
        keys = [(task, number) for task in batch for number in range(config.num_generations)]
        rollout = common.roll_out(
            policy,
            tokenizer,
            [common.encode_prompt(tokenizer, task, prompt_format) for task in batch],
            config.num_generations,
            config.max_completion_length,
            config.temperature,
            seeds_of("search response", keys),
        )
        for (task, _), text in zip(keys, rollout.judged_texts(), strict=True):
            futures.append(runner.submit(task, common.extract_program(task, text)))
        responses += zip(keys, rollout.prompts, rollout.completions, strict=True)
    statuses = [verdict["status"] for verdict in common.verdicts_of(futures).rows]
    judged = [i for i, status in enumerate(statuses) if status != "harness_error"]
    keys, prompts, completions = ([responses[i][part] for i in judged] for part in range(3))
    labelled, cost = label_responses(
        completer,
        tokenizer,
        table,
        runner,
        [task for task, _ in keys],
        prompts,
        completions,
        [statuses[i] == "passed" for i in judged],
        seeds_of("search", keys),
        config.num_completions,
        config.search,
        config.labels != "hard",
        config.temperature,
        config.max_completion_length,
        config.batch_size,
        config.share_completions,
    )
    found = [
        {"task_id": task["task_id"], **result._asdict()}
        for (task, _), result in zip(keys, labelled, strict=True)
    ]
    cost.update(responses=len(responses), response_tokens=sum(len(ids) for _, _, ids in responses))
    unjudged = len(responses) - len(judged)
    cost.update(executions=len(responses), unjudged=unjudged, harness_errors=unjudged)
    cost["seconds"] = time.perf_counter() - started
    parts = common.gather_rows([{"responses": found, "cost": cost}])
    total = Counter()
    for part in parts:
        total.update(part["cost"])
    responses = [response for part in parts for response in part["responses"]]
    return {"policy": index, "responses": responses, "cost": dict(total)}


def counts_of(chunk: dict) -> tuple[int, int]:
    """The programs of a chunk that ran, and how many of them have no verdict."""
    return chunk["cost"]["executions"], chunk["cost"].get("harness_errors", 0)


def is_whole(chunk: dict | None) -> bool:
    """Whether a chunk's line of the progress file is not damaged, and lacks no verdict."""
    return bool(chunk) and not counts_of(chunk)[1]


# Of a task, beside the flags: what decides its responses and their labels.
DECISIVE = [*common.PROMPT_FIELDS, "prefix", *sandbox.FIELDS]


def digest_of(tasks: list[dict]) -> str:
    return rows.digest_of([[task.get(field) for field in DECISIVE] for task in tasks])


def laid_out(results: list, chunks: list[list[dict]], num_policies: int) -> list[dict | None]:
    """The lines of the progress file, a policy after the other, one for each chunk of tasks; None
    where no line is of these tasks as they are. A line of an earlier version has no digest, and is
    taken by the ids of its tasks."""
    found = {}
    for line in filter(None, results):
        ids = frozenset(response["task_id"] for response in line["responses"])
        found[line["policy"], line.get("digest", ids)] = line
    keys = [(digest_of(chunk), frozenset(task["task_id"] for task in chunk)) for chunk in chunks]
    return [
        found.get((index, digest), found.get((index, ids)))
        for index in range(num_policies)
        for digest, ids in keys
    ]


def search_all(config: Config, tasks: list[dict], flags: dict, results: list[dict | None]) -> None:
    """Searches chunk by chunk, policy after policy, and adds to results a line of the progress file
    a chunk. A chunk whose line is damaged, or lacks a verdict, is searched anew in its place.

    InputError where the sandbox fails.
    """
    chunks = [tasks[i : i + config.chunk_size] for i in range(0, len(tasks), config.chunk_size)]
    read = sum(map(bool, results))
    results[:] = laid_out(results, chunks, len(config.model_name_or_path))
    if common.rank() == 0 and read > sum(map(bool, results)):
        print(f"{rows.progress_of(config)}: lines whose tasks have changed are left out")
    if common.rank() == 0 and any(chunk and "digest" not in chunk for chunk in results):
        print(f"{rows.progress_of(config)}: an earlier version's chunks are taken by their ids")
    total, latest = len(results), deque(maxlen=10)
    written = max((place for place, chunk in enumerate(results, 1) if chunk), default=0)
    done = sum(map(is_whole, results))
    if done == total:
        return
    bar = common.progress_bar("chunks searched", total, done)
    limits = {"workers": config.sandbox_workers, "timeout": config.sandbox_timeout}
    with sandbox.Sandbox(**limits, packages=config.packages) as runner:
        for index, path in enumerate(config.model_name_or_path):
            first = index * len(chunks)  # place of the policy's first chunk in results
            left = [n for n in range(len(chunks)) if not is_whole(results[first + n])]
            if not left:
                continue
            tokenizer = common.load_tokenizer(path)
            table = common.line_table(tokenizer)
            policy = common.replicate(common.load_policy(path, config).eval(), config)
            completer = policy
            if config.completer:
                completer = common.load_policy(config.completer, config).eval()
                completer = common.replicate(completer, config)
            for model in (policy, completer):
                common.check_sampling(model)
            if common.rank() == 0:
                rows.write_progress(config, flags, results[:written])
            for number in left:
                chunk = search_chunk(
                    config, policy, completer, tokenizer, table, runner, chunks[number], index
                )
                chunk["digest"], place = digest_of(chunks[number]), first + number
                results[place] = chunk
                if common.rank() == 0 and place < written:
                    rows.write_progress(config, flags, results[:written])
                elif common.rank() == 0:
                    common.append_jsonl(rows.progress_of(config), [chunk])
                written = max(written, place + 1)
                bar.update()
                latest.append(counts_of(chunk))
                if len(latest) == 10:
                    rows.check_judged(latest, rows.progress_of(config))
            del policy, completer, model  # before the next policy is loaded
    bar.close()


def rows_and_report(
    config: Config, tasks: list[dict], chunks: list[dict]
) -> tuple[list[dict], dict]:
    """Rows of prm.jsonl, in the order of the tasks, and the report."""
    cost, by_task = Counter(), defaultdict(list)
    for chunk in chunks:
        cost.update(chunk["cost"])
        for response in chunk["responses"]:
            result = Labelled(*(response[name] for name in Labelled._fields))
            if result.judged:
                by_task[response["task_id"]].append((chunk["policy"], result))
            else:
                cost["unjudged"] += 1
    selections = get_args(Config.__annotations__["data_selection"])
    labelled, kept = [], Counter(dict.fromkeys(selections, 0))
    for task in tasks:
        responses = by_task[task["task_id"]]
        stats = {
            "n_pass": sum(result.passed for _, result in responses),
            "n_fail": sum(not result.passed for _, result in responses),
            "n_revised": sum(result.revised for _, result in responses),
        }
        kept.update(selection for selection in kept if is_kept(selection, **stats))
        if not is_kept(config.data_selection, **stats):
            continue
        for policy, result in responses:
            if not result.program:
                continue
            labels = result.labels(
                config.labels, config.neutral_comments, config.mask_after_first_error
            )
            meta = {
                "policy": policy,
                "passed": result.passed,
                "first_bad": result.first_bad,
                "revised": result.revised,
                "probes": len(result.probes),
                "steps": rows.steps_of(task),
                **stats,
            }
            labelled.append(rows.line_row(task, result.lines, labels, "search", meta))
    results = [result for responses in by_task.values() for _, result in responses]
    failed = [result for result in results if not result.passed and result.program]
    first_bad = Counter(result.first_bad for result in failed)
    report = {
        **cost,
        "prompts": len(tasks),
        "passed": sum(result.passed for result in results),
        "failed": sum(not result.passed for result in results),
        "revised": sum(result.revised for result in results),
        "first_bad_before_last_line": sum(r.first_bad < r.program[-1] for r in failed),
        "first_bad": {str(line): first_bad[line] for line in sorted(first_bad)},
        "rows": len(labelled),
        "labels": dict(Counter(sign_of(label) for row in labelled for label in row["labels"])),
        "prompts_kept": dict(kept),
    }
    return labelled, report


def sign_of(label: float | None) -> str:
    if label is None:
        return "none"
    return "zero" if label == 0 else "positive" if label > 0 else "negative"


def main(config: Config) -> None:
    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
    rows.check_unique(tasks, config.tasks)
    common.check_packages(config, tasks)
    if config.labels != "hard" and config.search != "exhaustive":
        raise InputError(
            f"--labels {config.labels} needs --search exhaustive: a share for every line"
        )
    if config.share_completions and config.labels != "hard":
        raise InputError(
            "--share_completions is for --labels hard: shares are of a prefix's own completions"
        )
    for path in [*config.model_name_or_path, config.completer]:
        common.check_model("policy", path, config.max_completion_length, tasks)
    if config.completer:
        vocabulary = common.load_tokenizer(config.completer).get_vocab()
        for path in config.model_name_or_path:
            if common.load_tokenizer(path).get_vocab() != vocabulary:
                raise InputError(
                    f"{config.completer}: its tokenizer is not that of {path}, "
                    "whose tokens it continues"
                )
    searched = dataclasses.asdict(config)
    searched["labels"] = "hard" if config.labels == "hard" else "shares"
    for name in ("output_file", "data_selection", "mask_after_first_error", "neutral_comments"):
        del searched[name]  # what is left are the flags that the search depends on
    results, output = rows.read_progress(config, searched), Path(config.output_file)
    search_all(config, tasks, searched, results)
    if common.rank() > 0:
        return
    counts = [counts_of(chunk) for chunk in results]
    rows.check_judged(counts, rows.progress_of(config))

    labelled, report = rows_and_report(config, tasks, results)
    if not labelled:
        raise InputError(
            f"{config.tasks}: no prompt is kept by --data_selection {config.data_selection}"
        )
    text = json.dumps(report, indent=2)
    print(text)
    common.write_jsonl(output, labelled)
    common.write_text(output.with_suffix(".report.json"), text + "\n")
    print(f"{len(labelled)} rows of {report['prompts_kept'][config.data_selection]} prompts")
    rows.warn_of_lacking(output, sum(unjudged for _, unjudged in counts))
