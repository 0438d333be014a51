"""Small tokenizers of several kinds, random programs, and what reading the whole text says."""

import inspect
import random
import re
import textwrap
from itertools import chain

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, EOS = "<|pad|>", "<|eos|>"

# Chunks of Python that stand alone at the top level, and the kinds of their lines: c code,
# # comment, b blank, d docstring.
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
# Terminators of all kinds, parts of words, quotes, wide characters, rare separators of splitlines.
PIECES = ["\n", "\r\n", "\r", "\n\n", "\t", "  ", "def", "é", "说", "🎉", "#", "'''", '"', "\\"]
PIECES += ["\x0c", "\u2028", "x=1"]


def random_program(rng: random.Random) -> str:
    text = "".join(rng.choice(CHUNKS)[0] for _ in range(rng.randrange(0, 9)))
    end = rng.choice(["\n", "\n", "\r\n", "\r"])
    text = text.replace("\n", end)
    if rng.random() < 0.3:
        text = text.rstrip("\r\n")
    return text


def scrambled(rng: random.Random) -> str:
    """Text that is no program."""
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(0, 25)))


def corpus() -> list[str]:
    rng = random.Random(0)
    return [inspect.getsource(m) for m in (textwrap, random)] + [scrambled(rng) for _ in range(300)]


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)


def byte_level(presplit: bool) -> PreTrainedTokenizerFast:
    """GPT-2's kind. Without pre-splitting, merges cross words and lines, as "):\\n    return"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=presplit)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [line for text in corpus() for line in re.findall(r"(?:[^\n]*\n){1,3}", text)]
    lines += [chunk.replace("\n", end) for chunk, _ in CHUNKS for end in ("\n", "\r\n", "\r")]
    tokenizer.train_from_iterator(lines, trainer)
    return wrap(tokenizer)


def split_into(pattern: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the matches of a pattern, which must match everywhere."""
    texts = [*corpus(), *(chunk for chunk, _ in CHUNKS), "\r\n \r <think></answer>"]
    texts += ["\n" * n for n in range(1, 30)]
    words = set(chain.from_iterable(re.findall(pattern, text) for text in texts))
    vocabulary = {w: i for i, w in enumerate([PAD, EOS, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([PAD, EOS])
    return wrap(tokenizer)


WORDS = r"def|return|not|comment|print|doc|think|answer|if x:\n|\r\n|\n+| +|[\s\S]"
TOKENIZERS = {
    "byte_level_bpe": lambda: byte_level(True),
    "merging_bpe": lambda: byte_level(False),
    "characters": lambda: split_into(r"[\s\S]"),
    "words": lambda: split_into(WORDS),
}


def gpt2_bytes() -> dict[str, int]:
    """The byte that each printed character of a byte-level token stands for.

    Radford et al., 2019, encoder.py, `bytes_to_unicode`.
    """
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
    """Lines with their ends.

    splitlines also ends lines at rarer separators, where Python source goes on: these are
    exchanged for other characters on the way.
    """
    rare = {c: chr(0xE000 + i) for i, c in enumerate("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")}
    back = {v: k for k, v in rare.items()}
    hidden = text.translate(str.maketrans(rare))
    return [line.translate(str.maketrans(back)) for line in hidden.splitlines(keepends=True)]


def lines_of_tokens(tokenizer, text: str, row: list[int]):
    """By reading the text, of whose ids `row` consists.

    Returns the set of lines of each token's bytes, the token in which each line ends, and the
    lines.
    """
    lines = source_lines(text)
    line_of_byte = [i for i, line in enumerate(lines) for _ in line.encode()]
    token_of_byte = [t for t, piece in enumerate(token_bytes(tokenizer, row)) for _ in piece]
    covered: list[set[int]] = [set() for _ in row]
    end = [-1] * len(lines)
    for t, line in zip(token_of_byte, line_of_byte, strict=True):
        covered[t].add(line)
        end[line] = t
    return covered, end, lines


def batch(tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, list[list[int]]]:
    """Completions of the texts, two of three with an EOS that counts, padded with more EOS.

    Returns ids, mask (B, T), and the ids of each text.
    """
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    width = max(len(r) for r in rows) + 2
    ids = torch.full((len(rows), width), tokenizer.eos_token_id)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        assert tokenizer.decode(row) == texts[i]
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row) + (i % 3 > 0)] = True
    return ids, mask, rows
