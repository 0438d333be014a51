"""Masks over tokens and lines against readings of the whole text, for three kinds of tokenizer."""

import inspect
import io
import random
import re
import textwrap
import tokenize

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kernels.masking import (
    BLANK,
    CODE,
    COMMENT,
    DOCSTRING,
    completion_mask,
    line_end_positions,
    line_ends,
    line_index,
    line_kinds,
    line_table,
    line_tokens,
    mean_over_lines,
    span,
    stop_table,
    token_budget_batches,
)

PAD, EOS = "<|pad|>", "<|eos|>"

# Chunks of Python that stand alone at the top level, by the kinds of their lines: c code, # comment, b blank, d docstring.
CHUNKS = [
    ("x = 1\n", "c"),
    ("\n", "b"),
    ("   \n\t\n", "bb"),
    ("# naïve – 说明 🎉\n", "#"),
    ("s = '# no comment'  # but this is\n", "c"),
    ("def f(a):\n\t'''Tabs.\n\n\tAnd \"quotes\" # inside.\n\t'''\n\treturn a\n", "cddddc"),
    ('def g(x: int) -> int:\n    """One line."""\n    # why\n    return x + 1\n', "cd#c"),
    ('"""Module\n\n# not a comment\n"""\n', "dddd"),
    ('t = """\nnot a docstring\n\n# nor a comment\n"""\n', "ccccc"),
    ("r'\\d'\n", "d"),
    ("b'bytes'\n", "c"),
    ("'a' \"b\"\n", "d"),
    ("''\n", "d"),
    ('""; y = 2\n', "c"),
    ("'doc'  # comment\n", "d"),
    ("'doc'.join(s)\n", "c"),
    ("z = [\n    1,  # one\n\n    # two\n    2,\n]\n", "ccb#cc"),
    ("w = 1 + \\\n    2\n", "cc"),
    ("'a' \\\n    'b'\n", "dd"),
    ("'con\\\ntinued'\n", "dd"),
    ("q = 'it\\'s \\\\'\n", "c"),
    ('"""ends with a quote\\""""\n', "d"),
    ('"""a "word" and ""two""\n"""\n', "dd"),
    ("if x:\n    pass\nelse:\n    é = 'ü😀𝔘'\n", "cccc"),
    ("f'{x}'\n", "c"),
    ("print('''a'''\n      '''b''')\n", "cc"),
    ("[\n'not a docstring'\n]\n", "ccc"),
]
KIND = {"c": CODE, "#": COMMENT, "b": BLANK, "d": DOCSTRING}


def random_program(rng: random.Random) -> str:
    text = "".join(rng.choice(CHUNKS)[0] for _ in range(rng.randrange(0, 9)))
    end = rng.choice(["\n", "\n", "\r\n", "\r"])
    text = text.replace("\n", end)
    if rng.random() < 0.3:
        text = text.rstrip("\r\n")
    return text


def scrambled(rng: random.Random) -> str:
    """Text that is no program: terminators of all kinds next to each other, pieces of words, wide characters."""
    pieces = [
        "\n",
        "\r\n",
        "\r",
        "\n\n",
        "\t",
        "  ",
        "def",
        "é",
        "说",
        "🎉",
        "#",
        "'''",
        '"',
        "\\",
        "\x0c",
        "\u2028",
        "x=1",
    ]
    return "".join(rng.choice(pieces) for _ in range(rng.randrange(0, 25)))


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)


def corpus() -> list[str]:
    rng = random.Random(0)
    return [inspect.getsource(m) for m in (textwrap, random)] + [scrambled(rng) for _ in range(300)]


def byte_level(presplit: bool) -> PreTrainedTokenizerFast:
    """GPT-2's kind; without pre-splitting, merges run over words and line ends, as "):\\n    return"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=presplit)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[PAD, EOS], initial_alphabet=alphabet, show_progress=False
    )
    lines = [line for text in corpus() for line in re.findall(r"(?:[^\n]*\n){1,3}", text)]
    lines += [chunk.replace("\n", end) for chunk, _ in CHUNKS for end in ("\n", "\r\n", "\r")]
    tokenizer.train_from_iterator(lines, trainer)
    return wrap(tokenizer)


def split_into(pattern: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the matches of a pattern, which must match everywhere."""
    texts = [
        *corpus(),
        *(chunk for chunk, _ in CHUNKS),
        "\r\n \r <think></answer>",
        *("\n" * n for n in range(1, 30)),
    ]
    words = {w for text in texts for w in re.findall(pattern, text)}
    vocabulary = {w: i for i, w in enumerate([PAD, EOS, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([PAD, EOS])
    return wrap(tokenizer)


TOKENIZERS = {
    "byte_level_bpe": lambda: byte_level(True),
    "merging_bpe": lambda: byte_level(False),
    "characters": lambda: split_into(r"[\s\S]"),
    "words": lambda: split_into(
        r"def|return|not|comment|print|doc|think|answer|if x:\n|\r\n|\n+| +|[\s\S]"
    ),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


def gpt2_bytes() -> dict[str, int]:
    """The published table that byte-level tokenizers print bytes with (Radford et al., 2019, encoder.py)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


def token_bytes(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[bytes]:
    tokens = tokenizer.convert_ids_to_tokens(ids)
    if isinstance(tokenizer.backend_tokenizer.model, models.BPE):
        table = gpt2_bytes()
        return [bytes(table[c] for c in token) for token in tokens]
    return [token.encode() for token in tokens]


def source_lines(text: str) -> list[str]:
    """Lines with their ends. The rarer separators of splitlines are hidden from it: Python source does not break there."""
    rare = {c: chr(0xE000 + i) for i, c in enumerate("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")}
    back = {v: k for k, v in rare.items()}
    hidden = text.translate(str.maketrans(rare))
    return [line.translate(str.maketrans(back)) for line in hidden.splitlines(keepends=True)]


def batch(
    tokenizer, texts: list[str], eos: bool = True
) -> tuple[torch.Tensor, torch.Tensor, list[list[int]]]:
    """Completions of the texts, most with an EOS, padded with more EOS: ids, mask (B, T) and the ids of each text."""
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    width = max(len(r) for r in rows) + 2
    ids = torch.full((len(rows), width), tokenizer.eos_token_id)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        assert tokenizer.decode(row) == texts[i]
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row) + (eos and i % 3 > 0)] = True
    return ids, mask, rows


def lines_of_tokens(
    tokenizer, text: str, row: list[int]
) -> tuple[list[set[int]], list[int], list[str]]:
    """By reading the text: the lines of each token's bytes, the token in which each line ends, and the lines."""
    lines = source_lines(text)
    line_of_byte = [i for i, line in enumerate(lines) for _ in line.encode()]
    token_of_byte = [t for t, piece in enumerate(token_bytes(tokenizer, row)) for _ in piece]
    covered: list[set[int]] = [set() for _ in row]
    end = [-1] * len(lines)
    for t, line in zip(token_of_byte, line_of_byte, strict=True):
        covered[t].add(line)
        end[line] = t
    return covered, end, lines


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
        place, values = (
            torch.arange(ids.shape[1], dtype=torch.float64).square(),
            torch.zeros(64, dtype=torch.float64),
        )
        for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
            covered, end, lines = lines_of_tokens(tokenizer, text, row)
            padding = ids.shape[1] - len(row)
            assert index[i].tolist() == [min(c) for c in covered] + [-1] * padding
            assert ends[i].nonzero().flatten().tolist() == sorted(set(end))
            assert positions[i].tolist() == end + [-1] * (num_lines - len(lines))
            checked += len(lines)
            values[i] = sum(place[t] for t in end) / max(len(end), 1)
        assert torch.allclose(mean_over_lines(place.expand(64, -1), ids, mask, table), values)
    assert checked > 2000


def test_the_merging_tokenizer_has_the_tokens_that_make_lines_hard():
    tokenizer = TOKENIZERS["merging_bpe"]()
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    assert any(re.search(r"\S\n\s*\S", t) for t in texts)  # a newline inside a token
    assert any(len(re.findall(r"\r\n|\r|\n", t)) > 2 for t in texts)  # several in one token
    assert any(t.endswith("\r") for t in texts) and any(
        t.startswith("\n") for t in texts
    )  # "\r\n" over two tokens
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
            assert got[i].tolist() == [bool(c & given) for c in covered] + [False] * (
                ids.shape[1] - len(row)
            )


def python_kinds(text: str) -> list[int]:
    """Kinds of the lines of a valid program by Python's own tokenizer."""
    lines = source_lines(text)
    kinds = [BLANK] * len(lines)
    statement: list[tokenize.TokenInfo] = []
    silent = {tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text, newline=None).readline):
        if token.type == tokenize.COMMENT:
            kinds[token.start[0] - 1] = (
                COMMENT  # unless a statement has the line, which is written below
            )
        elif token.type not in silent and token.type != tokenize.NEWLINE:
            statement.append(token)
        if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            strings = all(
                s.type == tokenize.STRING and s.string.lstrip("rRuU")[0] in "'\"" for s in statement
            )
            for s in statement:
                for line in range(s.start[0] - 1, s.end[0]):
                    kinds[line] = DOCSTRING if strings else CODE
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
        assert line_kinds(
            ids, torch.ones_like(ids, dtype=torch.bool), table, len(expected)
        ).tolist() == [expected]


def test_line_kinds_of_programs_that_do_not_parse_are_defined():
    tokenizer = TOKENIZERS["characters"]()
    ids, mask, _ = batch(
        tokenizer, ["s = 'open\nx = 1\n", "'''never\nclosed", ")\n'doc'\n", "'", ""]
    )
    kinds = line_kinds(ids, mask, line_table(tokenizer), 2).tolist()
    assert kinds == [
        [CODE, CODE],
        [DOCSTRING, DOCSTRING],
        [CODE, DOCSTRING],
        [DOCSTRING, -1],
        [-1, -1],
    ]


def test_spans_are_between_markers_however_these_are_split(tokenizer):
    rng = random.Random(5)
    table = line_table(tokenizer)
    pieces = ["<think>", "</think>", "<", "think", ">", "x", "\n", "é", "</", "说"]
    texts = ["".join(rng.choice(pieces) for _ in range(rng.randrange(12))) for _ in range(300)]
    ids, mask, rows = batch(tokenizer, texts)
    for opening, closing in (
        ("<think>", "</think>"),
        (None, "</think>"),
        ("</think>", None),
        ("\n", "\n"),
    ):
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
            assert got[i].tolist() == expected + [False] * (ids.shape[1] - len(row)), (
                text,
                opening,
                closing,
            )


def test_a_stop_table_ends_at_the_token_that_completes_a_string(tokenizer):
    rng = random.Random(6)
    strings = ["</answer>", "\n\n", "ab", "aab"]
    stop = stop_table(line_table(tokenizer), strings)
    for _ in range(300):
        text = "".join(
            rng.choice(["</ans", "wer>", "</answer>", "a", "b", "\n", " x", "é"]) for _ in range(8)
        )
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
    assert (line_kinds(ids, mask, table, 2) == -1).all()
    assert not span(ids, mask, table, None, None).any()


def test_the_completion_ends_with_the_first_eos_of_several_and_padding_is_by_position():
    ids = torch.tensor(
        [[5, 1, 1, 1], [5, 6, 2, 0], [5, 0, 6, 7], [1, 5, 5, 5]]
    )  # pad == eos == 1 in the first row
    expected = [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert completion_mask(ids, [1, 2]).int().tolist() == expected
    assert completion_mask(ids, []).all()


def test_token_budget_batches_hold_each_row_once_within_the_budget():
    rng = random.Random(7)
    for _ in range(200):
        lengths = [rng.randrange(0, 60) for _ in range(rng.randrange(0, 30))]
        batches = token_budget_batches(lengths, 100)
        assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
        for b in batches:
            assert len(b) == 1 or max(lengths[i] for i in b) * len(b) <= 100
        padded = sum(max(lengths[i] for i in b) * len(b) for b in batches)
        assert padded <= sum(lengths) + 60 * max(1, len(batches))
