"""Kinds of the lines of Python source (code, comment, blank, docstring), from token ids alone.

A table-driven lexer reads the characters of all rows of a batch at once. As in Python's own lexer,
"#" within a string begins no comment, and a statement goes on in brackets, in triple quotes and
after a backslash. A program that does not parse gets the kinds that this reading gives.

Shapes as in kernels/masking.py; C is the number of characters of the longest row.
"""

import torch
from torch import Tensor

from kernels.masking import LineTable, characters, ends_of_lines, line_breaks, lines_ended

CODE, COMMENT, BLANK, DOCSTRING = range(4)  # kinds of line

# Classes of characters. The lexer passes over _SKIP: padding, and the "\r" of "\r\n".
_OTHER, _SPACE, _NEWLINE, _HASH, _BACKSLASH, _OPEN, _CLOSE, _PREFIX = range(8)
_SINGLE, _DOUBLE, _SKIP = range(8, 11)
_NUM_CLASSES = 11
_CHARACTERS = {
    " \t\f": _SPACE,
    "\r\n": _NEWLINE,
    "#": _HASH,
    "\\": _BACKSLASH,
    "([{": _OPEN,
    ")]}": _CLOSE,
    "rRuU": _PREFIX,  # of a string that can be a docstring: b"" and f"" cannot
    "'": _SINGLE,
    '"': _DOUBLE,
}

# States of the lexer. _JOINED is after a backslash in code. Each quote has eight states of strings.
_IN_CODE, _IN_COMMENT, _JOINED, _IN_SINGLE = range(4)
_IN_DOUBLE = _IN_SINGLE + 8


def _character_classes() -> Tensor:
    """Class of each ASCII character: (128,) long."""
    classes = torch.full((128,), _OTHER)
    for chars, kind in _CHARACTERS.items():
        classes[[ord(c) for c in chars]] = kind
    return classes


def _transitions() -> Tensor:
    """The state after a character of each class: (states, classes) long."""
    code = [_IN_CODE] * _NUM_CLASSES
    code[_HASH], code[_BACKSLASH] = _IN_COMMENT, _JOINED
    code[_SINGLE], code[_DOUBLE] = _IN_SINGLE, _IN_DOUBLE
    comment = [_IN_COMMENT] * _NUM_CLASSES
    comment[_NEWLINE] = _IN_CODE
    rows = [code, comment, code.copy()]
    for quote, one in ((_SINGLE, _IN_SINGLE), (_DOUBLE, _IN_DOUBLE)):
        # One or two quotes are read; in a string; after a backslash in the string; the same two
        # of a triple-quoted string; one or two quotes of its end are read.
        two, string, escape, triple, triple_escape, end_one, end_two = range(one + 1, one + 8)
        strings = {
            # state: (after the quote, after a backslash, after a newline, after any other)
            one: (two, escape, _IN_CODE, string),
            two: (triple, _JOINED, _IN_CODE, None),  # None: "" has ended, and code goes on
            string: (_IN_CODE, escape, _IN_CODE, string),
            escape: (string, string, string, string),
            triple: (end_one, triple_escape, triple, triple),
            triple_escape: (triple, triple, triple, triple),
            end_one: (end_two, triple_escape, triple, triple),
            end_two: (_IN_CODE, triple_escape, triple, triple),
        }
        for on_quote, on_backslash, on_newline, on_other in strings.values():
            row = code.copy() if on_other is None else [on_other] * _NUM_CLASSES
            row[quote], row[_BACKSLASH], row[_NEWLINE] = on_quote, on_backslash, on_newline
            rows.append(row)
    for state, row in enumerate(rows):
        row[_SKIP] = state
    return torch.tensor(rows)


def _read(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read codes (B, C): the classes of the characters, and the states before and after each.

    Three tensors (B, C) long; C steps over (B,) each.
    """
    classes = _character_classes().to(codes.device)[codes.clamp(0, 127)]
    classes = classes.masked_fill(codes > 127, _OTHER).masked_fill(codes < 0, _SKIP)
    cr_lf = (codes[:, :-1] == ord("\r")) & (codes[:, 1:] == ord("\n"))
    classes[:, :-1][cr_lf] = _SKIP
    transitions = _transitions().to(codes.device)
    states = [codes.new_full((len(codes),), _IN_CODE)]
    for c in classes.T.contiguous():
        states.append(transitions[states[-1], c])
    states = torch.stack(states, 1)  # (B, C + 1)
    return classes, states[:, :-1], states[:, 1:]


def _any_in(group: Tensor, flag: Tensor) -> Tensor:
    """Is a flag on in group 0, 1, ..., C of a row: group, flag (B, C) -> (B, C + 1) bool."""
    counts = group.new_zeros(len(group), group.shape[1] + 1)
    return counts.scatter_add_(1, group, flag.long()) > 0


def line_kinds(ids: Tensor, mask: Tensor, table: LineTable, num_lines: int) -> Tensor:
    """Kind of each line, CODE, COMMENT, BLANK or DOCSTRING: (B, T) -> (B, num_lines) long.

    DOCSTRING: a line of a statement that is nothing but string literals, wherever the statement
    stands. COMMENT, BLANK: a line with nothing but a comment, or nothing but white space, also
    between brackets. CODE: all other lines. -1 beyond the last line of the row.
    """
    content, _, _ = line_breaks(ids, mask, table)
    codes, _ = characters(ids, content, table)
    num_rows, width = codes.shape
    kinds = ids.new_full((num_rows, num_lines), -1)
    if width == 0 or num_lines == 0:
        return kinds
    classes, before, after = _read(codes)

    # Where each character stands: all (B, C) bool.
    seen = classes != _SKIP
    newline = classes == _NEWLINE
    quote = (classes == _SINGLE) | (classes == _DOUBLE)
    in_comment = (after == _IN_COMMENT) | (before == _IN_COMMENT)
    in_string = (after >= _IN_SINGLE) | (before >= _IN_SINGLE) & quote
    prefix = (classes[:, :-1] == _PREFIX) & quote[:, 1:] & ~in_comment[:, :-1]
    in_string[:, :-1] |= prefix
    joins = after == _JOINED
    in_code = seen & ~in_string & ~in_comment & ~newline & ~joins & (classes != _SPACE)
    opens, closes = in_code & (classes == _OPEN), in_code & (classes == _CLOSE)
    depth = (opens.long() - closes.long()).cumsum(1)  # open brackets
    ends_statement = newline & (after == _IN_CODE) & (before != _JOINED) & (depth <= 0)

    # The statement and the line that each character is of, from 0: (B, C) long.
    statement = ends_statement.cumsum(1) - ends_statement.long()
    line = newline.cumsum(1) - newline.long()

    has_code = _any_in(statement, in_code).gather(1, statement)  # (B, C): the whole statement
    written = in_code | in_string & seen | joins & (codes >= 0)  # part of a statement
    kind = torch.full((num_rows, width + 1), BLANK, device=ids.device)
    kind[_any_in(line, in_comment)] = COMMENT
    kind[_any_in(line, written)] = DOCSTRING
    kind[_any_in(line, written & has_code)] = CODE
    kind[~_any_in(line, codes >= 0)] = -1
    size = min(num_lines, width + 1)
    kinds[:, :size] = kind[:, :size]
    return kinds


def code_ends(ids: Tensor, mask: Tensor, table: LineTable) -> Tensor:
    """Tokens in which at least one line of kind CODE ends: (B, T) -> (B, T) bool."""
    num_lines = int(lines_ended(ids, mask, table).sum(1).amax()) if len(ids) else 0
    kinds = line_kinds(ids, mask, table, num_lines)  # (B, num_lines)
    return ends_of_lines(ids, mask, table, kinds == CODE)
