"""Lines of completions: which of them are the program's, and how scores of lines come to tokens.

A line is that of kernels/masking. N completions of T tokens, of at most L lines.
"""

from collections.abc import Iterable

import torch

from common.batches import Rollout, pad
from common.texts import lines_of, unix
from kernels import lexer, masking


def program_lines(program: str, text: str) -> list[int | None]:
    """For each line of a completion the index of the program's line that it is; None for prose,
    fences and tags around the program.

    program: what common.extract_program takes from the text. It may begin with lines that the text
    does not have (a prefix), and have less indentation, as a fence in a list. So its last lines are
    looked for in the text, as many as stand there in a row: where that is twice, the last time. A
    line of the text may go on with a tag after the program, or begin with one before the program.
    """
    program, text = unix(program), unix(text)
    own = [line.strip() for line in lines_of(program)]
    lines = [line.strip() for line in lines_of(text)]
    if program.endswith(text):
        return list(range(len(own) - len(lines), len(own)))
    most, last = (0, False), 0  # (lines in a row, whether their last one is whole); where it stands
    for end, line in enumerate(lines):
        if not own or not (line == own[-1] or (own[-1] and line.startswith(own[-1]))):
            continue
        count = 1
        while count < min(len(own), end + 1) and lines[end - count] == own[-1 - count]:
            count += 1
        if count < min(len(own), end + 1):
            first = own[-1 - count]
            count += bool(first) and lines[end - count].endswith(first)
        if (count, line == own[-1]) >= most:
            most, last = (count, line == own[-1]), end
    found: list[int | None] = [None] * len(lines)
    for back in range(most[0]):
        found[last - back] = len(own) - 1 - back
    return found


def of_program_lines(
    scores: list[list[float]], programs: Iterable[str], texts: list[str]
) -> list[list[float]]:
    """Of the scores of each text's lines those of the program's lines (`program_lines`)."""
    found = map(program_lines, programs, texts)
    return [
        [score for score, line in zip(row, lines, strict=True) if line is not None]
        for row, lines in zip(scores, found, strict=True)
    ]


def scored_lines(
    rollout: Rollout, line_table: masking.LineTable, score_prose: bool
) -> torch.Tensor:
    """Lines (N, L) bool of the completions that are the program's; all lines with score_prose."""
    ended = masking.lines_ended(rollout.ids, rollout.mask, line_table).sum(1)  # (N,)
    num_lines = max(ended.tolist(), default=0)
    scored = torch.arange(num_lines, device=ended.device) < ended[:, None]  # (N, L)
    if score_prose:
        return scored
    rows = []
    for program, text in zip(rollout.programs(), rollout.texts, strict=True):
        found = program_lines(program, text)[:num_lines]
        rows.append([line is not None for line in found] + [True] * (num_lines - len(found)))
    return scored & torch.tensor(rows, dtype=torch.bool, device=ended.device).view(scored.shape)


def line_ends(
    rollout: Rollout, line_table: masking.LineTable, score_prose: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (N, T) bool in which a line of the program ends, and those in which one ends that is
    code, not a comment, a blank line or a docstring. With score_prose the completion's lines are
    read, all of them, as if they were the program's."""
    ids, mask = rollout.ids, rollout.mask
    lines = scored_lines(rollout, line_table, score_prose)  # (N, L)
    ends = masking.ends_of_lines(ids, mask, line_table, lines)
    program = masking.line_tokens(ids, mask, line_table, lines)  # prose is not Python
    return ends, ends & lexer.code_ends(ids, program, line_table)


def put_at_line_ends(
    scores: list[list[float]],
    rollout: Rollout,
    line_table: masking.LineTable,
    score_prose: bool = False,
) -> torch.Tensor:
    """Scores of the completions' lines, N lists, as scores (N, T) of the tokens in which they end.

    A token in which several lines end gets the mean of their scores. Blank lines, which have no
    label in training, count where no other line ends in the token. Lines that are not scored (prose
    around the program; NaN) count nowhere. A token without a line gets 0.
    """
    lines = scored_lines(rollout, line_table, score_prose)  # (N, L)
    ends = masking.line_end_positions(rollout.ids, rollout.mask, line_table, lines.shape[1])
    nan = float("nan")
    rows = [(row + [nan] * lines.shape[1])[: lines.shape[1]] for row in scores]
    values = pad(rows, nan, torch.float32).view(lines.shape)  # (N, L)
    texts = [[bool(line.strip()) for line in lines_of(text)] for text in rollout.texts]
    written = pad([(row + [False] * lines.shape[1])[: lines.shape[1]] for row in texts])
    known = lines & (ends >= 0) & ~values.isnan()  # (N, L)

    def mean(counted: torch.Tensor) -> torch.Tensor:
        """Mean over the counted lines (N, L) that end in each token (N, T); NaN without one."""
        total, count = torch.zeros(2, *rollout.ids.shape, device=ends.device)
        total.scatter_add_(1, ends.clamp(min=0), torch.where(counted, values, 0))
        count.scatter_add_(1, ends.clamp(min=0), counted.float())
        return total / count

    of_written = mean(known & written.view(lines.shape).bool())
    return torch.where(of_written.isnan(), mean(known), of_written).nan_to_num(0.0)
