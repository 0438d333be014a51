"""Masks over tokens and lines against readings of the whole text, for several tokenizers."""

import random
import re

import pytest
import torch
from small_tokenizers import (
    TOKENIZERS,
    batch,
    lines_of_tokens,
    random_program,
    scrambled,
    split_into,
    token_bytes,
)

from kernels.masking import (
    completion_mask,
    line_end_positions,
    line_ends,
    line_index,
    line_table,
    line_tokens,
    mean_over_lines,
    span,
    stop_table,
)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("make", [random_program, scrambled])
def test_lines_are_those_of_splitlines_on_the_decoded_text(tokenizer, make):
    rng = random.Random(1)
    table = line_table(tokenizer)
    checked = 0
    for _ in range(20):
        texts = [make(rng) for _ in range(64)]
        ids, mask, rows = batch(tokenizer, texts)
        num_lines = 60
        index, ends = line_index(ids, mask, table), line_ends(ids, mask, table)
        positions = line_end_positions(ids, mask, table, num_lines)
        squares = torch.arange(ids.shape[1], dtype=torch.float64).square()
        means = torch.zeros(64, dtype=torch.float64)
        for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
            covered, end, lines = lines_of_tokens(tokenizer, text, row)
            padding = ids.shape[1] - len(row)
            assert index[i].tolist() == [min(c) for c in covered] + [-1] * padding
            assert ends[i].nonzero().flatten().tolist() == sorted(set(end))
            assert positions[i].tolist() == end + [-1] * (num_lines - len(lines))
            checked += len(lines)
            means[i] = sum(squares[t] for t in end) / max(len(end), 1)
        assert torch.allclose(mean_over_lines(squares.expand(64, -1), ids, mask, table), means)
    assert checked > 2000


def test_the_merging_tokenizer_has_the_tokens_that_make_lines_hard():
    tokenizer = TOKENIZERS["merging_bpe"]()
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    assert any(re.search(r"\S\n\s*\S", t) for t in texts)  # a newline inside a token
    assert any(len(re.findall(r"\r\n|\r|\n", t)) > 2 for t in texts)  # several in one token
    # "\r\n" over two tokens
    assert any(t.endswith("\r") for t in texts) and any(t.startswith("\n") for t in texts)
    assert any("\ufffd" in t for t in texts)  # a part of a character


def test_lines_beyond_num_lines_are_left_out(tokenizer):
    table = line_table(tokenizer)
    ids, mask, _ = batch(tokenizer, ["a\nb\nc\n"])
    every = line_end_positions(ids, mask, table, 3)
    assert line_end_positions(ids, mask, table, 2).tolist() == every[:, :2].tolist()
    assert line_end_positions(ids, mask, table, 0).shape == (1, 0)


def test_tokens_of_given_lines_are_those_with_a_character_in_them(tokenizer):
    rng = random.Random(2)
    table = line_table(tokenizer)
    for _ in range(10):
        texts = [rng.choice([random_program, scrambled])(rng) for _ in range(32)]
        ids, mask, rows = batch(tokenizer, texts)
        wanted = torch.rand(len(texts), 20, generator=torch.Generator().manual_seed(3)) < 0.4
        got = line_tokens(ids, mask, table, wanted)
        for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
            covered, _, _ = lines_of_tokens(tokenizer, text, row)
            given = set(wanted[i].nonzero().flatten().tolist())
            padding = [False] * (ids.shape[1] - len(row))
            assert got[i].tolist() == [bool(c & given) for c in covered] + padding


def test_spans_are_between_markers_however_these_are_split(tokenizer):
    rng = random.Random(5)
    table = line_table(tokenizer)
    pieces = ["<think>", "</think>", "<", "think", ">", "x", "\n", "é", "</", "说"]
    texts = ["".join(rng.choice(pieces) for _ in range(rng.randrange(12))) for _ in range(300)]
    ids, mask, rows = batch(tokenizer, texts)
    markers = [("<think>", "</think>"), (None, "</think>"), ("</think>", None), ("\n", "\n")]
    for opening, closing in markers:
        got = span(ids, mask, table, opening, closing)
        for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
            begin = 0 if opening is None else text.find(opening)
            begin = len(text) if begin < 0 else begin + len(opening or "")
            end = -1 if closing is None else text.find(closing, begin)
            end = len(text) if end < 0 else end
            inside = range(len(text[:begin].encode()), len(text[:end].encode()))
            at, expected = 0, []
            for piece in token_bytes(tokenizer, row):
                expected.append(any(b in inside for b in range(at, at + len(piece))))
                at += len(piece)
            expected += [False] * (ids.shape[1] - len(row))  # padding
            assert got[i].tolist() == expected, (text, opening, closing)


def test_a_stop_table_ends_at_the_token_that_completes_a_string(tokenizer):
    rng = random.Random(6)
    strings = ["</answer>", "\n\n", "ab", "aab"]
    pieces = ["</ans", "wer>", "</answer>", "a", "b", "\n", " x", "é"]
    stop = stop_table(line_table(tokenizer), strings)
    for _ in range(300):
        text = "".join(rng.choice(pieces) for _ in range(8))
        row = tokenizer(text).input_ids
        naive = [any(s in tokenizer.decode(row[: t + 1]) for s in strings) for t in range(len(row))]
        state, seen = torch.tensor(0), []
        for token in row:
            state = stop[state, token]
            seen.append(bool(state == len(stop) - 1))
        assert seen == naive, text


@pytest.mark.parametrize("marker", ["", "é"])
def test_markers_that_bytes_could_split_are_refused(marker):
    table = line_table(split_into(r"[\s\S]"))
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="ASCII"):
        span(ids, ids == 0, table, marker, None)
    with pytest.raises(ValueError, match="ASCII"):
        stop_table(table, [marker])


def test_special_tokens_and_ids_beyond_the_tokenizer_belong_to_no_line(tokenizer):
    table = line_table(tokenizer)
    row = tokenizer("a\nb").input_ids
    ids = torch.tensor([[*row, len(tokenizer) + 50, tokenizer.eos_token_id]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    assert line_index(ids, mask, table)[0, -2:].tolist() == [-1, -1]
    assert line_end_positions(ids, mask, table, 2)[0, 1] == len(row) - 1


def test_empty_and_masked_rows_have_no_lines(tokenizer):
    table = line_table(tokenizer)
    ids = torch.full((3, 4), tokenizer.eos_token_id)
    ids[2] = tokenizer("\n").input_ids[0]
    mask = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert (line_index(ids, mask, table) == -1).all()
    assert not line_ends(ids, mask, table).any()
    assert (line_end_positions(ids, mask, table, 2) == -1).all()
    assert not span(ids, mask, table, None, None).any()


def test_the_completion_ends_with_the_first_eos_of_several_and_padding_is_by_position():
    # In the first row the padding is an EOS.
    ids = torch.tensor([[5, 1, 1, 1], [5, 6, 2, 0], [5, 0, 6, 7], [1, 5, 5, 5]])
    expected = [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert completion_mask(ids, [1, 2]).int().tolist() == expected
    assert completion_mask(ids, []).all()
