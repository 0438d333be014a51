"""Which tokens count, and which line each token belongs to, from token ids alone.

`line_table` decodes each id of the vocabulary once; all other functions work on ids. A line is a
line of Python source: a line ends with "\\n", "\\r\\n" or a lone "\\r", and text after the last of
these is a line too. So the lines are those of `str.splitlines`, except that form feeds and the
rarer separators of Unicode do not end a line. A terminator can stand anywhere in a token, a token
can hold several terminators, and "\\r\\n" can be split over two tokens.

B rows, T tokens, V ids in the vocabulary. ids (B, T) long and mask (B, T) bool are completions; a
token counts where the mask is on.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

TAGS = ("<think>", "</think>", "<answer>", "</answer>")  # text, even where they are special tokens


class LineTable(NamedTuple):
    """The text of each id, as far as lines go: tensors (V + 1,), the last entry for unknown ids."""

    breaks: Tensor  # long: line terminators in the text
    starts_lf: Tensor  # bool: the text starts with "\n"
    ends_cr: Tensor  # bool: the text ends with "\r"
    closed: Tensor  # bool: the text ends with a terminator
    content: Tensor  # bool: the id has text and is not special (EOS, padding, chat markers)
    start: Tensor  # long (V + 2,): the text of id i is codes[start[i] : start[i + 1]]
    codes: Tensor  # long: the code points of all texts

    def to(self, device: torch.device | str) -> "LineTable":
        return LineTable(*(x.to(device) for x in self))


def special_ids(tokenizer) -> set[int]:
    """The special tokens of a Hugging Face tokenizer that are no text: EOS, padding, chat markers.
    TAGS are text."""
    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {i for i in special if tokenizer.convert_ids_to_tokens(i) not in TAGS}


def decode(tokenizer, ids: list[int]) -> str:
    """The text of ids, special tokens and spaces as they are."""
    as_it_is = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return tokenizer.decode(ids, **as_it_is)


def space_context(tokenizer) -> list[int]:
    """Ids to decode before others, so that the text of these keeps its first space; [] where none
    are needed.

    A SentencePiece-style decoder drops the space that a sequence begins with. In its vocabulary
    U+2581 is the space: such a decoder reads a token that begins with U+2581 in two ways, alone
    and after another token.
    """
    special = special_ids(tokenizer)
    pieces = [i for token, i in tokenizer.get_vocab().items() if token.startswith("\u2581")]
    first = min((i for i in pieces if i not in special), default=None)
    if first is None or decode(tokenizer, [first, first]) == 2 * decode(tokenizer, [first]):
        return []
    return [first]


def line_table(tokenizer) -> LineTable:
    """The table of a Hugging Face tokenizer: decodes each id once, about a second for 150k ids."""
    size = max(tokenizer.get_vocab().values(), default=-1) + 1
    special, context = special_ids(tokenizer), space_context(tokenizer)
    start = len(decode(tokenizer, context))
    # A part of a multi-byte character decodes to U+FFFD. Neither U+FFFD nor the whole character
    # ends a line.
    texts = [decode(tokenizer, [*context, i])[start:] for i in range(size)]
    texts.append("")  # ids beyond the tokenizer: models pad their vocabulary
    return LineTable(
        breaks=torch.tensor([len(re.findall(r"\r\n|\r|\n", t)) for t in texts]),
        starts_lf=torch.tensor([t.startswith("\n") for t in texts]),
        ends_cr=torch.tensor([t.endswith("\r") for t in texts]),
        closed=torch.tensor([t.endswith(("\r", "\n")) for t in texts]),
        content=torch.tensor([t != "" and i not in special for i, t in enumerate(texts)]),
        start=torch.tensor([0] + [len(t) for t in texts]).cumsum(0),
        codes=torch.tensor([ord(c) for t in texts for c in t], dtype=torch.long),
    )


def completion_mask(ids: Tensor, eos_ids: list[int]) -> Tensor:
    """On up to and including the first of `eos_ids` in a row: (B, T) -> (B, T) bool.

    Without an EOS the whole row is on. The padding id plays no part: the padding may be an EOS.
    """
    is_eos = torch.isin(ids, torch.tensor(eos_ids, dtype=ids.dtype, device=ids.device))
    return is_eos.cumsum(1) - is_eos.long() == 0


def line_breaks(ids: Tensor, mask: Tensor, table: LineTable) -> tuple[Tensor, Tensor, Tensor]:
    """What each token adds to the text: three tensors (B, T).

    content, bool: the token counts, has text and is not special. breaks, long: line terminators
    that end in the token, 0 without content. known, long: the token's index in the table.
    """
    known = ids.clamp(max=len(table.content) - 1)
    content = mask & table.content[known]
    breaks = torch.where(content, table.breaks[known], 0)
    # "\r" and then "\n" in the next token is one terminator. The terminator ends in the next token.
    ends_cr = content & table.ends_cr[known]
    starts_lf = content & table.starts_lf[known]
    breaks[:, :-1] -= (ends_cr[:, :-1] & starts_lf[:, 1:]).long()
    return content, breaks, known


def line_index(ids: Tensor, mask: Tensor, table: LineTable) -> Tensor:
    """Index, from 0, of the line in which each token begins: (B, T) -> (B, T) long.

    -1 for tokens that belong to no line: masked tokens and special tokens, EOS among them.
    """
    content, breaks, _ = line_breaks(ids, mask, table)
    return torch.where(content, breaks.cumsum(1) - breaks, -1)


def lines_ended(ids: Tensor, mask: Tensor, table: LineTable) -> Tensor:
    """How many lines end in each token: (B, T) -> (B, T) long.

    A last line without a terminator ends in the last token with text.
    """
    content, breaks, known = line_breaks(ids, mask, table)
    position = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    last = content & (position == (content * position).amax(1, keepdim=True))
    return breaks + (last & ~table.closed[known])


def line_ends(ids: Tensor, mask: Tensor, table: LineTable) -> Tensor:
    """Tokens in which at least one line ends: (B, T) -> (B, T) bool."""
    return lines_ended(ids, mask, table) > 0


def line_end_positions(ids: Tensor, mask: Tensor, table: LineTable, num_lines: int) -> Tensor:
    """Position of the token in which line i ends: (B, T) -> (B, num_lines) long.

    -1 beyond the last line of the row. Lines from num_lines on are left out. Two lines have the
    same position if both end in one token.
    """
    ended = lines_ended(ids, mask, table).cumsum(1)
    line = torch.arange(1, num_lines + 1, device=ids.device)
    line = line.expand(len(ids), num_lines).contiguous()
    return torch.where(line <= ended[:, -1:], torch.searchsorted(ended, line), -1)


def ends_of_lines(ids: Tensor, mask: Tensor, table: LineTable, lines: Tensor) -> Tensor:
    """Tokens in which at least one of the given lines ends: (B, T), lines (B, L) bool -> (B, T)."""
    ends = line_end_positions(ids, mask, table, lines.shape[1])  # (B, L), -1 where there is none
    given = (lines & (ends >= 0)).long()
    return torch.zeros_like(ids).scatter_reduce(1, ends.clamp(min=0), given, "amax") > 0


def mean_over_lines(values: Tensor, ids: Tensor, mask: Tensor, table: LineTable) -> Tensor:
    """(1 / M) sum_m values[end of line m] over the M lines of each row: (B, T, ...) -> (B, ...).

    The end of a line is the token in which the line ends. 0 for a row without lines.
    """
    ended = lines_ended(ids, mask, table).to(values.dtype)  # (B, T)
    return torch.einsum("bt,bt...->b...", ended / ended.sum(1, keepdim=True).clamp(min=1), values)


def line_tokens(ids: Tensor, mask: Tensor, table: LineTable, lines: Tensor) -> Tensor:
    """Tokens with at least one character of the given lines: (B, T), lines (B, L) bool -> (B, T).

    A terminator belongs to the line that it ends. Lines from L on are not given.
    """
    content, breaks, known = line_breaks(ids, mask, table)
    first = breaks.cumsum(1) - breaks  # (B, T) line in which the token begins
    last = first + breaks - (table.closed[known] & (breaks > 0)).long()  # (B, T)
    # given[:, i] is the number of given lines before line i: (B, L + 1).
    given = torch.cat([lines.new_zeros(len(lines), 1), lines], 1).cumsum(1)
    begin = first.clamp(max=lines.shape[1])
    end = (last + 1).clamp(max=lines.shape[1])
    return content & (given.gather(1, end) > given.gather(1, begin))


def characters(ids: Tensor, mask: Tensor, table: LineTable) -> tuple[Tensor, Tensor]:
    """The text of the tokens that count: codes (B, C) long and owner (B, C) long.

    codes are code points, -1 after the end of a row's text; C is the length of the longest text.
    owner is the token (0 to T - 1) that the character is of, 0 after the end.
    """
    num_rows, num_tokens = ids.shape
    known = ids.clamp(max=len(table.content) - 1)
    size = torch.where(mask, table.start[known + 1] - table.start[known], 0)  # (B, T)
    # First the texts of all rows in one sequence of N characters, then each at its row and column.
    flat = size.flatten()
    token = torch.arange(len(flat), device=ids.device).repeat_interleave(flat)  # (N,)
    index = torch.arange(len(token), device=ids.device)
    in_token = index - (flat.cumsum(0) - flat)[token]
    row, in_row = token // max(num_tokens, 1), size.sum(1)
    column = index - (in_row.cumsum(0) - in_row)[row]
    codes = ids.new_full((num_rows, int(in_row.max()) if num_rows else 0), -1)
    owner = torch.zeros_like(codes)
    codes[row, column] = table.codes[table.start[known.flatten()[token]] + in_token]
    owner[row, column] = token % max(num_tokens, 1)
    return codes, owner


def _find(codes: Tensor, text: str, at_least: Tensor) -> Tensor:
    """First column >= at_least (B,) at which `text` begins in codes (B, C), or C: (B,) long."""
    if not text.isascii() or not text:
        raise ValueError(f"a marker must be ASCII and not empty, not {text!r}")
    width = codes.shape[1]
    column = torch.arange(width, device=codes.device)
    found = (column >= at_least[:, None]) & (column <= width - len(text))
    for i, c in enumerate(text):
        found[:, : width - i] &= codes[:, i:] == ord(c)
    return torch.where(found, column, width).amin(1) if width else at_least


def span(
    ids: Tensor, mask: Tensor, table: LineTable, opening: str | None, closing: str | None
) -> Tensor:
    """Tokens of the text between two markers, as "<think>" and "</think>": (B, T) -> (B, T) bool.

    The text begins after the first `opening`, or with the row if `opening` is None; without an
    `opening` in the row the text is empty. The text ends before the first `closing` after its
    beginning, or with the row if `closing` is None or not found. A token is on if at least one
    character of the token is in the text. Markers may be split over tokens in any way. Special
    tokens are never on, but their text can be a marker.

    ValueError for a marker that is empty or not ASCII.
    """
    codes, owner = characters(ids, mask, table)
    width = codes.shape[1]
    begin = ids.new_zeros(len(ids))
    if opening is not None:
        begin = (_find(codes, opening, begin) + len(opening)).clamp(max=width)
    end = torch.full_like(begin, width) if closing is None else _find(codes, closing, begin)
    column = torch.arange(width, device=ids.device)
    inside = (codes >= 0) & (column >= begin[:, None]) & (column < end[:, None])  # (B, C)
    content, _, _ = line_breaks(ids, mask, table)
    return content & (torch.zeros_like(ids).scatter_add_(1, owner, inside.long()) > 0)


def _stop_automaton(strings: list[str], alphabet: list[str]) -> Tensor:
    """Transitions (S, len(alphabet) + 1) long by characters; the last column is any other one.

    A state is the longest prefix of a string with which the text so far ends (Aho and Corasick,
    1975). State 0 is the empty prefix; S - 1, which is never left, is a complete string.
    """
    prefixes = sorted({s[:i] for s in strings for i in range(len(s))}, key=len)
    state = {p: i for i, p in enumerate(prefixes)}
    final = len(prefixes)
    step = torch.zeros(final + 1, len(alphabet) + 1, dtype=torch.long)
    step[final] = final
    for p in prefixes:
        for k, c in enumerate(alphabet):
            suffixes = [(p + c)[i:] for i in range(len(p) + 2)]  # longest first
            if set(suffixes) & set(strings):
                step[state[p], k] = final
            else:
                step[state[p], k] = next(state[x] for x in suffixes if x in state)
    return step


def stop_table(table: LineTable, strings: list[str]) -> Tensor:
    """Transitions (S, V + 1) long with which `sampling.sample` stops at the first of `strings`.

    State 0 is the beginning of a completion, result[state, id] is the state after a token, and
    state S - 1 means that a string is complete. ValueError for a string that is empty or not ASCII.
    """
    for s in strings:
        if not s.isascii() or not s:
            raise ValueError(f"a stop string must be ASCII and not empty, not {s!r}")
    alphabet = sorted(set("".join(strings)))
    step = _stop_automaton(strings, alphabet)
    letter = torch.full((int(table.codes.max()) + 1 if len(table.codes) else 1,), len(alphabet))
    for k, c in enumerate(alphabet):
        if ord(c) < len(letter):
            letter[ord(c)] = k
    start, codes = table.start.cpu(), table.codes.cpu()
    size = start.diff()
    result = torch.arange(len(step))[:, None].repeat(1, len(size))
    for i in range(int(size.max())):  # the i-th character of all texts that have one
        longer = (size > i).nonzero().squeeze(1)
        result[:, longer] = step[result[:, longer], letter[codes[start[longer] + i]]]
    return result.to(table.start.device)
