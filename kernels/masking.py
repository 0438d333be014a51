"""Which tokens count, and which source line each belongs to, from token ids alone: text is decoded once per vocabulary.

A line is a line of Python source: it ends with "\\n", "\\r\\n" or a lone "\\r". The text after the last of these, if
there is any, is a line too. So the lines are those of `str.splitlines`, except that Python source, unlike splitlines,
does not break at form feeds and the rarer separators of Unicode. A newline can sit anywhere inside a token, a token
can hold several, and "\\r\\n" can be split over two.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor


class LineTable(NamedTuple):
    """What masking needs to know about the text of each id: tensors (V + 1,), the last entry for unknown ids."""

    breaks: Tensor  # long: line terminators inside the token's text
    starts_lf: Tensor  # bool: the text starts with "\n"
    ends_cr: Tensor  # bool: the text ends with "\r"
    closed: Tensor  # bool: the text ends with a terminator
    content: Tensor  # bool: the id has text and is not special (EOS, padding, chat markers)
    start: Tensor  # long (V + 2,): the text of id i is codes[start[i] : start[i + 1]]
    codes: Tensor  # long: the code points of all texts

    def to(self, device: torch.device | str) -> "LineTable":
        return LineTable(*(x.to(device) for x in self))


def line_table(tokenizer) -> LineTable:
    """Decode each id of a Hugging Face tokenizer once (about a second for 150k ids); every other function works on ids."""
    size = max(tokenizer.get_vocab().values(), default=-1) + 1
    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # Alone, a part of a multi-byte character decodes to U+FFFD, which breaks no line, as the whole character does not.
    texts = [
        tokenizer.decode([i], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for i in range(size)
    ]
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
    """ids (B, T) -> (B, T) bool: on up to and including the first of `eos_ids`, whatever the padding id is."""
    is_eos = torch.isin(ids, torch.tensor(eos_ids, dtype=ids.dtype, device=ids.device))
    return is_eos.cumsum(1) - is_eos.long() == 0


def _breaks(ids: Tensor, mask: Tensor, table: LineTable) -> tuple[Tensor, Tensor, Tensor]:
    """Per token (B, T): content bool, terminators that end in it, and its id in the table."""
    known = ids.clamp(max=len(table.content) - 1)
    content = mask & table.content[known]
    breaks = torch.where(content, table.breaks[known], 0)
    # "\r" then "\n" in the next token is one terminator, and it ends in that next token.
    joined = (
        content[:, :-1]
        & content[:, 1:]
        & table.ends_cr[known[:, :-1]]
        & table.starts_lf[known[:, 1:]]
    )
    breaks[:, :-1] -= joined.long()
    return content, breaks, known


def line_index(ids: Tensor, mask: Tensor, table: LineTable) -> Tensor:
    """Index, from 0, of the line in which each token begins. ids, mask (B, T) -> (B, T) long, -1 where there is none.

    Masked positions and special tokens (EOS among them) belong to no line.
    """
    content, breaks, _ = _breaks(ids, mask, table)
    return torch.where(content, breaks.cumsum(1) - breaks, -1)


def _ended(ids: Tensor, mask: Tensor, table: LineTable) -> Tensor:
    """Lines that end in each token (B, T), an unfinished last line ending in the last token with text."""
    content, breaks, known = _breaks(ids, mask, table)
    position = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    last = content & (position == (content * position).amax(1, keepdim=True))
    return breaks + (last & ~table.closed[known])


def line_ends(ids: Tensor, mask: Tensor, table: LineTable) -> Tensor:
    """Tokens in which at least one line ends. ids, mask (B, T) -> (B, T) bool.

    That is a token whose text holds a line terminator, or the last token with text if no terminator follows it.
    """
    return _ended(ids, mask, table) > 0


def line_end_positions(ids: Tensor, mask: Tensor, table: LineTable, num_lines: int) -> Tensor:
    """Position of the token in which line i ends. ids, mask (B, T) -> (B, num_lines) long, -1 beyond the row's lines.

    Two lines share a position if one token ends both. Lines beyond num_lines are left out.
    """
    ended = _ended(ids, mask, table).cumsum(1)
    line = (
        torch.arange(1, num_lines + 1, device=ids.device).expand(len(ids), num_lines).contiguous()
    )
    return torch.where(line <= ended[:, -1:], torch.searchsorted(ended, line), -1)


def mean_over_lines(values: Tensor, ids: Tensor, mask: Tensor, table: LineTable) -> Tensor:
    """Mean over a row's lines of what stands at the token in which each ends. values (B, T, ...) -> (B, ...); 0 for none."""
    ended = _ended(ids, mask, table).to(values.dtype)  # (B, T) lines that end in each token
    return torch.einsum("bt,bt...->b...", ended / ended.sum(1, keepdim=True).clamp(min=1), values)


def line_tokens(ids: Tensor, mask: Tensor, table: LineTable, lines: Tensor) -> Tensor:
    """Tokens with at least one character of the given lines. ids, mask (B, T), lines (B, L) bool -> (B, T) bool.

    A line's terminator is a part of it. Lines from L on are not given.
    """
    content, breaks, known = _breaks(ids, mask, table)
    first = breaks.cumsum(1) - breaks
    last = first + breaks - (table.closed[known] & (breaks > 0)).long()
    before = torch.cat([lines.new_zeros(len(lines), 1), lines], 1).cumsum(
        1
    )  # (B, L + 1) given lines before line i
    end = (last + 1).clamp(max=lines.shape[1])
    return content & (before.gather(1, end) > before.gather(1, first.clamp(max=lines.shape[1])))


def _characters(ids: Tensor, mask: Tensor, table: LineTable) -> tuple[Tensor, Tensor]:
    """Text of the masked tokens: code points (B, C), -1 after the end, and the token that each is of (B, C)."""
    num_rows, num_tokens = ids.shape
    known = ids.clamp(max=len(table.content) - 1)
    size = torch.where(mask, table.start[known + 1] - table.start[known], 0)  # (B, T)
    flat = size.flatten()
    token = torch.arange(len(flat), device=ids.device).repeat_interleave(
        flat
    )  # (N,) of N characters in all
    index = torch.arange(len(token), device=ids.device)
    code = table.codes[table.start[known.flatten()[token]] + index - (flat.cumsum(0) - flat)[token]]
    row, in_row = token // max(num_tokens, 1), size.sum(1)
    column = index - (in_row.cumsum(0) - in_row)[row]
    codes = ids.new_full((num_rows, int(in_row.max()) if num_rows else 0), -1)
    owner = torch.zeros_like(codes)
    codes[row, column] = code
    owner[row, column] = token % max(num_tokens, 1)
    return codes, owner


def _find(codes: Tensor, text: str, at_least: Tensor) -> Tensor:
    """First column >= at_least (B,) at which `text` begins in codes (B, C); C where it does not -> (B,)."""
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
    """Tokens of the text between two markers, as "<think>" and "</think>". ids, mask (B, T) -> (B, T) bool.

    On for tokens with at least one character after the first `opening` (None: the beginning) and before the first
    `closing` after it (None, or none there: the end). Markers may be split over tokens in any way. Special tokens are
    never on, though their text can be a marker. ValueError for a marker that is empty or not ASCII.
    """
    codes, owner = _characters(ids, mask, table)
    width = codes.shape[1]
    begin = ids.new_zeros(len(ids))
    if opening is not None:
        begin = (_find(codes, opening, begin) + len(opening)).clamp(max=width)
    end = torch.full_like(begin, width) if closing is None else _find(codes, closing, begin)
    column = torch.arange(width, device=ids.device)
    inside = (codes >= 0) & (column >= begin[:, None]) & (column < end[:, None])
    content, _, _ = _breaks(ids, mask, table)
    return content & (torch.zeros_like(ids).scatter_add_(1, owner, inside.long()) > 0)


def stop_table(table: LineTable, strings: list[str]) -> Tensor:
    """Transition table (S, V + 1) long with which sampling ends a completion at the first of `strings`.

    States are how much of a string the text so far ends with (Aho and Corasick, 1975), followed over whole tokens:
    state 0 is the beginning, table[state, id] the state after a token, and S - 1 means that a string is complete.
    ValueError for a string that is empty or not ASCII.
    """
    for s in strings:
        if not s.isascii() or not s:
            raise ValueError(f"a stop string must be ASCII and not empty, not {s!r}")
    prefixes = sorted({s[:i] for s in strings for i in range(len(s))}, key=len)
    state = {p: i for i, p in enumerate(prefixes)}
    final = len(prefixes)
    alphabet = sorted(set("".join(strings)))
    step = torch.zeros(
        final + 1, len(alphabet) + 1, dtype=torch.long
    )  # per character; the last one is any other
    step[final] = final
    for p in prefixes:
        for k, c in enumerate(alphabet):
            suffixes = [(p + c)[i:] for i in range(len(p) + 2)]
            step[state[p], k] = (
                final
                if set(suffixes) & set(strings)
                else next(state[x] for x in suffixes if x in state)
            )
    letter = torch.full((int(table.codes.max()) + 1 if len(table.codes) else 1,), len(alphabet))
    for k, c in enumerate(alphabet):
        if ord(c) < len(letter):
            letter[ord(c)] = k
    start, codes = table.start.cpu(), table.codes.cpu()
    size = start.diff()
    result = torch.arange(final + 1)[:, None].repeat(1, len(size))
    for i in range(int(size.max())):
        longer = (size > i).nonzero().squeeze(1)
        result[:, longer] = step[result[:, longer], letter[codes[start[longer] + i]]]
    return result.to(table.start.device)


CODE, COMMENT, BLANK, DOCSTRING = range(4)  # kinds of line
_OTHER, _SPACE, _NEWLINE, _SKIP, _HASH, _SINGLE, _DOUBLE, _BACKSLASH, _OPEN, _CLOSE, _PREFIX = (
    range(11)
)
_IN_CODE, _IN_COMMENT, _JOINED, _STRINGS = range(4)  # states; those of strings are _STRINGS and up


def _lexer() -> Tensor:
    """Transition table (states, classes of characters) long of Python's strings and comments.

    Per quote there are eight states: one quote seen, two seen, in a string, after a backslash in it, in a
    triple-quoted string, after a backslash in it, one and two closing quotes seen in it.
    """
    fresh = [_IN_CODE] * 11  # what a character leads to outside of strings and comments
    fresh[_HASH], fresh[_BACKSLASH] = _IN_COMMENT, _JOINED
    fresh[_SINGLE], fresh[_DOUBLE] = _STRINGS, _STRINGS + 8
    rows = [list(fresh), [_IN_COMMENT] * 11, list(fresh)]
    rows[_IN_COMMENT][_NEWLINE] = _IN_CODE
    for quote, first in ((_SINGLE, _STRINGS), (_DOUBLE, _STRINGS + 8)):
        two, text, escape, triple, triple_escape, close_one, close_two = range(first + 1, first + 8)
        for default, on_quote, on_backslash, on_newline in (
            (text, two, escape, _IN_CODE),  # one: the first quote
            (
                None,
                triple,
                _JOINED,
                _IN_CODE,
            ),  # two: the empty string, or the beginning of a triple quote
            (text, _IN_CODE, escape, _IN_CODE),
            (text, text, text, text),
            (triple, close_one, triple_escape, triple),
            (triple, triple, triple, triple),
            (triple, close_two, triple_escape, triple),
            (triple, _IN_CODE, triple_escape, triple),
        ):
            row = list(fresh) if default is None else [default] * 11
            row[quote], row[_BACKSLASH], row[_NEWLINE] = on_quote, on_backslash, on_newline
            rows.append(row)
    for state, row in enumerate(rows):
        row[_SKIP] = state
    return torch.tensor(rows)


def _character_classes() -> Tensor:
    """Class of each ASCII character (128,)."""
    classes = torch.full((128,), _OTHER)
    for chars, kind in (
        (" \t\f", _SPACE), ("\r\n", _NEWLINE), ("#", _HASH), ("'", _SINGLE), ('"', _DOUBLE), ("\\", _BACKSLASH),
        ("([{", _OPEN), (")]}", _CLOSE), ("rRuU", _PREFIX),
    ):  # fmt: skip
        classes[[ord(c) for c in chars]] = kind
    return classes


def line_kinds(ids: Tensor, mask: Tensor, table: LineTable, num_lines: int) -> Tensor:
    """Kind of each line: CODE, COMMENT, BLANK or DOCSTRING. ids, mask (B, T) -> (B, num_lines) long, -1 beyond the end.

    DOCSTRING is every line of a statement that is nothing but string literals, wherever it stands; COMMENT and BLANK
    lines have nothing but a comment or white space, also between brackets. As in Python's own lexer strings hide `#`
    and statements go on in brackets, in triple quotes and after a backslash. Programs that do not parse get the kinds
    that this reading gives. (B, C) characters are read in C steps of (B,).
    """
    content, _, _ = _breaks(ids, mask, table)
    codes, _ = _characters(ids, content, table)
    num_rows, width = codes.shape
    kinds = ids.new_full((num_rows, num_lines), -1)
    if width == 0 or num_lines == 0:
        return kinds
    here = codes >= 0
    classes = (
        _character_classes().to(ids.device)[codes.clamp(0, 127)].masked_fill(codes > 127, _OTHER)
    )
    classes = classes.masked_fill(~here, _SKIP)
    classes[:, :-1][(codes[:, :-1] == ord("\r")) & (codes[:, 1:] == ord("\n"))] = _SKIP
    lexer = _lexer().to(ids.device)
    states = [ids.new_full((num_rows,), _IN_CODE)]
    for c in classes.T.contiguous():
        states.append(lexer[states[-1], c])
    states = torch.stack(states, 1)  # (B, C + 1)
    before, after = states[:, :-1], states[:, 1:]

    newline = classes == _NEWLINE
    is_quote = (classes == _SINGLE) | (classes == _DOUBLE)
    in_string = (after >= _STRINGS) | (before >= _STRINGS) & is_quote
    in_comment = (after == _IN_COMMENT) | (before == _IN_COMMENT)
    in_string[:, :-1] |= (classes[:, :-1] == _PREFIX) & is_quote[:, 1:] & ~in_comment[:, :-1]
    joins = after == _JOINED
    in_code = (
        here
        & ~in_string
        & ~in_comment
        & ~newline
        & ~joins
        & (classes != _SPACE)
        & (classes != _SKIP)
    )
    in_string &= here & (classes != _SKIP)
    depth = ((in_code & (classes == _OPEN)).long() - (in_code & (classes == _CLOSE)).long()).cumsum(
        1
    )
    ends_statement = newline & (after == _IN_CODE) & (before != _JOINED) & (depth <= 0)

    def any_per(
        group: Tensor, flag: Tensor
    ) -> Tensor:  # (B, C), (B, C) -> (B, C + 1): is the flag on in the group
        return torch.zeros_like(states).scatter_add_(1, group, flag.long()) > 0

    statement = ends_statement.cumsum(1) - ends_statement.long()
    line = newline.cumsum(1) - newline.long()
    of_code = any_per(statement, in_code).gather(1, statement)
    solid = in_code | in_string | joins & here
    kind = torch.full_like(states, BLANK)
    kind[any_per(line, in_comment)] = COMMENT
    kind[any_per(line, solid)] = DOCSTRING
    kind[any_per(line, solid & of_code)] = CODE
    kind.masked_fill_(~any_per(line, here), -1)
    size = min(num_lines, width + 1)
    kinds[:, :size] = kind[:, :size]
    return kinds


def code_ends(ids: Tensor, mask: Tensor, table: LineTable) -> Tensor:
    """Tokens in which a line of kind CODE ends. ids, mask (B, T) -> (B, T) bool."""
    num_lines = int(_ended(ids, mask, table).sum(1).amax()) if len(ids) else 0
    kinds = line_kinds(ids, mask, table, num_lines)  # (B, num_lines)
    ends = line_end_positions(ids, mask, table, num_lines)  # (B, num_lines), -1 where there is none
    is_code = ((kinds == CODE) & (ends >= 0)).long()
    return torch.zeros_like(ids).scatter_reduce(1, ends.clamp(min=0), is_code, "amax") > 0


def token_budget_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Indices of rows in micro-batches of at most `budget` tokens, padding included, longest rows first.

    Rows of like length share a micro-batch, so little is padding; the longest come first, so a run that will exhaust
    the memory does so at once. A row longer than the budget is a micro-batch of its own.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
