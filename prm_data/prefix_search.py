"""The search of PSGPO (Dai et al., 2024, algorithm 1) on sampled responses, for --method search:
which prefix of a failing response is the last one that can still be completed."""

from collections import Counter, defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch

import common
import sandbox
from kernels import lexer, masking
from prm_data import rows

# A search over T lines is a generator; search.py has its pseudo-code and terms. It yields the line
# (from 1) whose prefix it asks about, is sent whether that prefix is recoverable, and returns
# first_bad. The lines are those of the program: line 1 is the program's first.


def binary_search(num_lines: int) -> Generator[int, bool, int]:
    left, right, first_bad = 1, num_lines, num_lines
    while left <= right and left < num_lines:
        m = (left + right) // 2
        if (yield m):
            left = m + 1
        else:
            first_bad, right = m, m - 1
    return first_bad


def linear_search(num_lines: int) -> Generator[int, bool, int]:
    for m in range(1, num_lines):
        if not (yield m):
            return m
    return num_lines


def exhaustive_search(num_lines: int, first: int = 1) -> Generator[int, bool, int]:
    """first: 1, or 0 to ask about the prompt alone too."""
    last = 0
    for m in range(first, num_lines + 1):
        if (yield m):
            last = m
    return min(last + 1, num_lines)


SEARCHES = {"binary": binary_search, "linear": linear_search, "exhaustive": exhaustive_search}


class Labelled(NamedTuple):
    """What the search found in one response of T lines, prose and fences included."""

    lines: list[str]  # T, each with its newline
    # T, of lexer.line_kinds for the lines of the program; None for prose and fences around it
    kinds: list[int | None]
    passed: bool
    first_bad: int | None  # line from 1 at which it is lost; None if it passes, or was not judged
    # of each prefix asked: line (0: the prompt alone), passing completions, judged completions
    probes: list[tuple[int, int, int]]
    judged: bool  # no prefix was left without a verdict

    @property
    def program(self) -> list[int]:
        """The lines of the program, from 1."""
        return [m for m, kind in enumerate(self.kinds, 1) if kind is not None]

    @property
    def revised(self) -> bool:
        """The response fails, and a completion of one of its prefixes passes."""
        if self.first_bad is None:
            return False
        recoverable = any(passing for line, passing, _ in self.probes if line)
        return self.first_bad > self.program[0] or recoverable

    def labels(
        self,
        labels: str = "hard",
        neutral_comments: bool = True,
        mask_after_first_error: bool = False,
    ) -> list[float | None] | None:
        """The labels (T,), by the flags of Config; None where a prefix has no verdict.

        A line that is not the program's has no label (None).
        """
        if not self.judged:
            return None
        share, result = {line: passing / judged for line, passing, judged in self.probes}, []
        before = dict(zip(self.program, [0, *self.program], strict=False))  # the last line asked
        for m, kind in enumerate(self.kinds, 1):
            after_error = mask_after_first_error and self.first_bad and m > self.first_bad
            if kind is None or after_error:
                result.append(None)
            elif neutral_comments and kind != lexer.CODE:
                result.append(0.0)
            elif labels == "hard":
                result.append(1.0 if self.passed or m < self.first_bad else -1.0)
            else:
                result.append(share[m] - (share[before[m]] if labels == "marginal" else 0.0))
        return result


@dataclass
class Probe:
    """An open question: can the prefix of a response up to a line still be completed?"""

    row: int
    search: Generator[int, bool, int]
    line: int
    drawn: int = 0
    judged: int = 0
    passing: int = 0


def program_kinds(
    ids: torch.Tensor,
    mask: torch.Tensor,
    table: masking.LineTable,
    programs: list[str],
    texts: list[str],
) -> list[list[int | None]]:
    """Of each line of the N completions the kind (lexer.line_kinds), read in the program alone: a
    bracket or quote in the prose before the program opens nothing. None for a line that is not the
    program's (common.program_lines).

    ids (N, T) long, mask (N, T) bool: the completions; programs, texts: N, of the completions.
    """
    found = list(map(common.program_lines, programs, texts))
    owned = common.pad([[line is not None for line in row] for row in found]).bool()  # (N, L)
    program = masking.line_tokens(ids, mask, table, owned)  # (N, T)
    lines = masking.line_index(ids, mask, table)  # (N, T)
    # The lexer counts from the line in which the program's first token begins: that token may begin
    # in the line before the program.
    first = [min(row, default=0) for row in torch.where(program, lines, owned.shape[1]).tolist()]
    kinds = lexer.line_kinds(ids, program, table, owned.shape[1]).tolist()  # (N, L)
    return [
        [None if line is None else kind[m - start] for m, line in enumerate(row)]
        for row, kind, start in zip(found, kinds, first, strict=True)
    ]


def label_responses(
    completer,
    tokenizer,
    table: masking.LineTable,
    runner: sandbox.Sandbox,
    tasks: list[dict],
    prompts: list[list[int]],
    completions: list[list[int]],
    passed: list[bool],
    seeds: list[int],
    num_completions: int = 20,
    search: str = "binary",
    shares: bool = False,
    temperature: float = 1.0,
    max_completion_length: int = 128,
    batch_size: int = 64,
    share_completions: bool = False,
) -> tuple[list[Labelled], Counter]:
    """Labels the lines of N responses' programs by completing the responses' prefixes.

    completer: the model that completes, in eval mode. table: common.line_table(tokenizer).
    tasks, prompts, completions, passed, seeds: one entry a response. prompts and completions are
    the token ids as they were sampled, EOS included or not; passed: whether the response passes.
    shares: for labels that are not hard: passing responses are searched too, and the prompt alone
    is asked about. The other arguments are flags of Config.

    The searches go on side by side: in each round every open search asks about one prefix, and
    programs run while the next `batch_size` prefixes are completed. A response's labels depend on
    its own arguments alone, and with share_completions on its prompt's other responses.

    Returns one Labelled a response, and the cost: probes, completions, completion_tokens,
    executions (equal programs of a task run once), harness_errors (programs without a verdict).
    """
    if not tasks:
        return [], Counter()
    texts = common.decode(tokenizer, completions)
    openings = [common.opening_of(tokenizer, prompt) for prompt in prompts]
    judged_texts = [opening + text for opening, text in zip(openings, texts, strict=True)]
    programs = list(map(common.extract_program, tasks, judged_texts))
    lines = [rows.lines_of(text) for text in texts]
    ids = common.pad(completions)  # (N, T)
    mask = common.pad([[1] * len(row) for row in completions]).bool()  # (N, T)
    width = max(map(len, lines), default=0)
    ends = masking.line_end_positions(ids, mask, table, width).tolist()  # (N, lines)
    kinds = program_kinds(ids, mask, table, programs, texts)  # N lists of T
    # ends[i][m]: tokens of the prefix of m lines
    ends = [[0] + [end + 1 for end in row if end >= 0] for row in ends]
    # The searches count the program's lines, everything else the response's, both from 1.
    places = [[m for m, kind in enumerate(row, 1) if kind is not None] for row in kinds]
    # Any passing completion settles a hard label, so the second half is often not needed.
    in_halves = search != "exhaustive" and num_completions % 2 == 0
    portion = num_completions // 2 if in_halves else num_completions

    cost, verdicts = Counter(probes=0, completions=0, completion_tokens=0, executions=0), {}
    passing_texts = defaultdict(set)  # by task
    for task, text, ok in zip(tasks, texts, passed, strict=True):
        passing_texts[task["task_id"]].update([text] if ok else [])
    probes, first_bad, unjudged = [[] for _ in tasks], [None] * len(tasks), set()

    def ask(row: int, steps: Generator, answer: bool | None) -> list[Probe]:
        """The next question of a search; where the search has ended, [], and first_bad is noted."""
        try:
            line = steps.send(answer)
            return [Probe(row, steps, places[row][line - 1] if line else 0)]
        except StopIteration as end:
            first_bad[row] = None if passed[row] else places[row][end.value - 1]
            return []

    begin = partial(exhaustive_search, first=0) if shares else SEARCHES[search]
    searched = [i for i in range(len(tasks)) if places[i] and (shares or not passed[i])]
    waiting = [probe for i in searched for probe in ask(i, begin(len(places[i])), None)]
    while waiting:
        waiting.sort(key=lambda probe: len(prompts[probe.row]) + ends[probe.row][probe.line])
        futures = []
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            prefixes = [completions[probe.row][: ends[probe.row][probe.line]] for probe in batch]
            room = [max(0, max_completion_length - len(prefix)) for prefix in prefixes]
            draws = [(probe, probe.drawn + k) for probe in batch for k in range(portion)]
            rollout = common.roll_out(
                completer,
                tokenizer,
                [
                    prompts[probe.row] + prefix
                    for probe, prefix in zip(batch, prefixes, strict=True)
                ],
                portion,
                max(1, *room),
                temperature,
                [common.seed_of(seeds[p.row], "completion", p.line, draw) for p, draw in draws],
            )
            tails = [tail[: room[i // portion]] for i, tail in enumerate(rollout.completions)]
            whole = [prefixes[i // portion] + tail for i, tail in enumerate(tails)]
            cost.update(completions=len(tails), completion_tokens=sum(map(len, tails)))
            for i, text in enumerate(common.decode(tokenizer, whole)):
                probe = batch[i // portion]
                program = common.extract_program(tasks[probe.row], openings[probe.row] + text)
                key = tasks[probe.row]["task_id"], program
                if key not in verdicts:
                    verdicts[key] = runner.submit(tasks[probe.row], program)
                    cost["executions"] += 1
                futures.append((probe, text, verdicts[key]))
        for probe, text, future in futures:
            status = future.result()["status"]
            probe.drawn += 1
            probe.judged += status != "harness_error"
            if status == "passed":
                probe.passing += 1
                passing_texts[tasks[probe.row]["task_id"]].add(text)
        asked, waiting = waiting, []
        for probe in asked:
            if probe.drawn < num_completions and not probe.passing:
                waiting.append(probe)
                continue
            probes[probe.row].append((probe.line, probe.passing, probe.judged))
            cost["probes"] += 1
            if probe.judged:
                waiting += ask(probe.row, probe.search, probe.passing > 0)
            else:
                unjudged.add(probe.row)

    cost["harness_errors"] = sum(
        future.result()["status"] == "harness_error" for future in verdicts.values()
    )
    for i in searched if share_completions else []:
        for line, following in pairwise(places[i] if first_bad[i] else []):
            if line < first_bad[i]:
                continue
            (prefix,) = common.decode(tokenizer, [completions[i][: ends[i][line]]])
            if any(text.startswith(prefix) for text in passing_texts[tasks[i]["task_id"]]):
                first_bad[i] = following

    return [
        Labelled(lines[i], kinds[i], passed[i], first_bad[i], probes[i], i not in unjudged)
        for i in range(len(tasks))
    ], cost
