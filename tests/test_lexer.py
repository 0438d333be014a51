"""Kinds of lines against Python's own tokenizer, for several kinds of tokenizer."""

import inspect
import io
import random
import textwrap
import tokenize

import pytest
import torch
from small_tokenizers import (
    CHUNKS,
    TOKENIZERS,
    batch,
    lines_of_tokens,
    random_program,
    source_lines,
)

from kernels.lexer import BLANK, CODE, COMMENT, DOCSTRING, code_ends, line_kinds
from kernels.masking import line_end_positions, line_ends, line_table

KIND = {"c": CODE, "#": COMMENT, "b": BLANK, "d": DOCSTRING}
SILENT = {tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def is_plain_string(token: tokenize.TokenInfo) -> bool:
    return token.type == tokenize.STRING and token.string.lstrip("rRuU")[0] in "'\""


def python_kinds(text: str) -> list[int]:
    """Kinds of the lines of a valid program by Python's own tokenizer."""
    kinds = [BLANK] * len(source_lines(text))
    statement: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(text, newline=None).readline):
        if token.type == tokenize.COMMENT:  # a statement on the same line is written over it
            kinds[token.start[0] - 1] = COMMENT
        elif token.type not in SILENT and token.type != tokenize.NEWLINE:
            statement.append(token)
        if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            kind = DOCSTRING if all(map(is_plain_string, statement)) else CODE
            for part in statement:
                for line in range(part.start[0] - 1, part.end[0]):
                    kinds[line] = kind
            statement = []
    return kinds


def test_line_kinds_are_those_of_pythons_tokenizer(tokenizer):
    rng = random.Random(4)
    table = line_table(tokenizer)
    for _ in range(10):
        texts = [random_program(rng) for _ in range(64)]
        ids, mask, _ = batch(tokenizer, texts)
        kinds = line_kinds(ids, mask, table, 60)
        for got, text in zip(kinds.tolist(), texts, strict=True):
            expected = python_kinds(text)
            assert got == expected + [-1] * (60 - len(expected)), text


def test_line_kinds_of_the_chunks_are_as_written_down():
    tokenizer = TOKENIZERS["merging_bpe"]()
    table = line_table(tokenizer)
    ids, mask, _ = batch(tokenizer, [text for text, _ in CHUNKS])
    for (text, kinds), got in zip(CHUNKS, line_kinds(ids, mask, table, 8).tolist(), strict=True):
        assert got == [KIND[k] for k in kinds] + [-1] * (8 - len(kinds)), text


def test_line_kinds_of_real_modules():
    tokenizer = TOKENIZERS["byte_level_bpe"]()
    table = line_table(tokenizer)
    for module in (textwrap, random, inspect):
        text = inspect.getsource(module)
        ids = torch.tensor([tokenizer(text).input_ids])
        expected = python_kinds(text)
        mask = torch.ones_like(ids, dtype=torch.bool)
        assert line_kinds(ids, mask, table, len(expected)).tolist() == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s = 'open\nx = 1\n", [CODE, CODE]),
        ("'''never\nclosed", [DOCSTRING, DOCSTRING]),
        (")\n'doc'\n", [CODE, DOCSTRING]),
        ("'", [DOCSTRING, -1]),
        ("", [-1, -1]),
    ],
)
def test_line_kinds_of_programs_that_do_not_parse_are_defined(text, expected):
    tokenizer = TOKENIZERS["characters"]()
    ids, mask, _ = batch(tokenizer, [text])
    assert line_kinds(ids, mask, line_table(tokenizer), 2).tolist() == [expected]


def test_rows_without_text_have_no_kinds(tokenizer):
    table = line_table(tokenizer)
    ids = torch.full((3, 4), tokenizer.eos_token_id)
    ids[2] = tokenizer("\n").input_ids[0]
    mask = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert (line_kinds(ids, mask, table, 2) == -1).all()
    assert not code_ends(ids, mask, table).any()
    assert code_ends(ids[:0], mask[:0], table).shape == (0, 4)


def test_code_ends_are_the_ends_of_lines_that_are_code(tokenizer):
    function = 'def f(xs):\n    # a comment\n\n    """Says nothing."""\n'
    function += "    xs = xs[1:]  # code too\n    return xs\n"
    texts = [function, "# only\n# comments", "x = 1\n\n\n", ""]
    lines = [[0, 4, 5], [], [0], []]  # of code
    table = line_table(tokenizer)
    ids, mask, _ = batch(tokenizer, texts)
    code = code_ends(ids, mask, table)
    ends = line_end_positions(ids, mask, table, 8)
    for b, expected in enumerate(lines):
        assert code[b].nonzero().flatten().tolist() == [int(ends[b, i]) for i in expected]
    assert not (code & ~line_ends(ids, mask, table)).any()


def test_code_ends_are_where_pythons_tokenizer_sees_code(tokenizer):
    rng = random.Random(8)
    table = line_table(tokenizer)
    texts = [random_program(rng) for _ in range(200)]
    ids, mask, rows = batch(tokenizer, texts)
    code = code_ends(ids, mask, table)
    for got, text, row in zip(code, texts, rows, strict=True):
        _, ends, _ = lines_of_tokens(tokenizer, text, row)
        kinds = python_kinds(text)
        expected = {end for end, kind in zip(ends, kinds, strict=True) if kind == CODE}
        assert got.nonzero().flatten().tolist() == sorted(expected), text
