"""What counts as equal: results as JSON writes them, outputs line by line, answers in prose.

Runs in the judge. Imports proxies.py and the standard library. The rules are those of the
benchmarks' own graders; docs/results/sandbox.md names where they are stricter.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

from jail.proxies import Proxy


def as_json(value):
    """The value as it would come back from JSON: lists for tuples, string keys."""
    if type(value) in (list, tuple):
        return [as_json(item) for item in value]
    if isinstance(value, dict):  # also Counter, OrderedDict and defaultdict
        return {key_text(key): as_json(item) for key, item in value.items()}
    return value


def key_text(key):
    """A key as JSON would write it."""
    if type(key) is bool or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return str(key) if type(key) in (int, float) else key


def tolerances(test: dict) -> tuple[float, float]:
    """Absolute and relative tolerance of a test: (0, 0) where a test gives none."""
    atol, rtol = test.get("atol") or 0.0, test.get("rtol")
    return atol, (1e-7 if atol > 0 else 0.0) if rtol is None else rtol


def close(a: float, b: float, atol: float, rtol: float) -> bool:
    """Whether |a - b| <= atol + rtol |b|, where a tolerance is given and is finite."""
    tolerance = atol + rtol * abs(b)
    return 0 < tolerance < math.inf and abs(a - b) <= tolerance


def same(result, expected, atol: float, rtol: float) -> bool:
    """Whether a result equals the expected value, both as JSON would write them. NaN equals NaN.

    Floats are equal if |result - expected| <= atol + rtol |expected|.
    """
    if type(expected) is list:
        if type(result) is not list or len(result) != len(expected):
            return False
        return all(same(a, b, atol, rtol) for a, b in zip(result, expected, strict=True))
    if type(expected) is dict:
        if type(result) is not dict or result.keys() != expected.keys():
            return False
        return all(same(result[key], expected[key], atol, rtol) for key in expected)
    if type(expected) is float and type(result) in (int, float):
        if math.isnan(expected):
            return math.isnan(result)
        return result == expected or close(result, expected, atol, rtol)
    return not isinstance(result, Proxy) and result == expected


def final_answer(text: str) -> str | None:
    """What follows the last "####", else what the last \\boxed{} holds."""
    marked = re.findall(r"####\s*([^\s#][^\n]*)", text)
    if marked:
        return marked[-1]
    start = max(text.rfind(r"\boxed{"), text.rfind(r"\fbox{"))
    if start < 0:
        return None
    start, level = text.index("{", start), 0
    for end in range(start, len(text)):
        level += {"{": 1, "}": -1}.get(text[end], 0)
        if level == 0:
            return text[start + 1 : end]
    return None


def same_answer(answer: str, expected: str) -> bool:
    """Whether the answers are the same text or number. A unit is dropped if `expected` has none."""
    answer, expected = bare_answer(answer), bare_answer(expected)
    if answer == expected:
        return True
    unit = re.fullmatch(r"(\S+?)(?:\s+[^\d=+*/^<>]+|°\w*)", answer)
    values = [plain_number(unit[1] if unit else answer), plain_number(expected)]
    return values[0] is not None and values[0] == values[1]


def bare_answer(text: str) -> str:
    """An answer without bold, currency, per cent, LaTeX spaces and text, and a final full stop."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\*\*|__|\\[$%!,;]|[$€£%`]", "", text)
    text = re.sub(r"(?<=\d)(?:,|\{,\})(?=\d)", "", text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".").strip()


# As Decimal reads numbers, but for leading zeros and underscores.
NUMBER = re.compile(r"[+-]?(?=\.?[0-9])(?:0|[1-9][0-9]*)?(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")


def plain_number(text: str) -> Decimal | None:
    """The number that the text spells; None for another text, such as "0010" or "1_000"."""
    try:
        return Decimal(text) if NUMBER.fullmatch(text) else None
    except ArithmeticError:  # an exponent of more digits than Decimal has
        return None


def same_output(
    output: bytes, expected: str, atol: float, rtol: float, blank_lines: bool = True
) -> bool:
    """Whether whole outputs are equal, line by line.

    White space around lines does not count, nor does the spelling of numbers (LiveCodeBench).
    Without `blank_lines` lines of white space alone do not count either (APPS).
    """
    got = [line.strip() for line in output.decode("utf-8", "replace").strip().split("\n")]
    want = [line.strip() for line in expected.strip().split("\n")]
    if not blank_lines:
        got, want = list(filter(None, got)), list(filter(None, want))
    if len(got) != len(want):
        return False
    pairs = zip(got, want, strict=True)
    return all(a == b or same_numbers(a, b, atol, rtol) for a, b in pairs)


def same_numbers(line: str, expected: str, atol: float, rtol: float) -> bool:
    """Whether two lines hold the same numbers, however they are spelt, within a tolerance."""
    a, b = line.split(), expected.split()
    if len(a) != len(b) or len(line) >= 1 << 16:
        return False
    pairs = [(plain_number(x), plain_number(y)) for x, y in zip(a, b, strict=True)]
    if any(None in pair for pair in pairs):
        return False
    return all(x == y or close(float(x), float(y), atol, rtol) for x, y in pairs)
