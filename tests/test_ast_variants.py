"""The embedded teacher: what it changes, what it leaves, and that a change is what it says."""

import ast
import collections
import copy
import json
import re
import warnings

import pytest

from teachers.ast_variants import ast_variants
from teachers.patterns import parsed
from teachers.units import Variant

MICRO = """def f(xs):
    xs = [x for x in xs if x >= 3]
    xs = xs[2:] + xs[:2]
    xs = [min(x, 5) for x in xs]
    n = max(xs, default=0)
    xs = sorted(xs, reverse=True)
    xs = xs + [sum(xs)]
    xs = xs[::-1]
    return xs
"""

PROGRAM = '''import math


def score(values, limit=10):
    """Sum of the small even values."""
    # start at nothing
    total = 0
    names = []

    for value in values:
        if value % 2 == 0 and value < limit:
            total += value * 2
            names.append(str(value))
        elif value == 7:
            total -= 1
    best = max(values) if len(values) > 0 else 0
    first, second = total - best, best + 1
    return [total, first, second, sorted(names), math.sqrt(abs(first)) > 1]
'''


def texts(source: str, line: int, intent: str | None = None, **options) -> set[str]:
    """Stripped replacements of one line."""
    variants = ast_variants(source, **options)
    return {
        v.text.strip()
        for v in variants
        if (v.start, v.end) == (line, line) and intent in (None, v.intent)
    }


def run(program: str, *arguments):
    """What the last function of a program returns, or the name of the exception that it raises."""
    names: dict = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(program, names)
        return repr(
            [name for name in names.values() if callable(name)][-1](*copy.deepcopy(arguments))
        )
    except Exception as error:
        return type(error).__name__


def statement_spans(source: str) -> dict[tuple[int, int], str]:
    """{(first line, last line): "simple" | "header"}; a header ends where its body begins."""
    spans = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            if body and body[0].lineno > node.lineno:
                for end in range(node.lineno, body[0].lineno):
                    spans[node.lineno, end] = "header"
            else:
                spans[node.lineno, node.end_lineno] = "simple"
    return spans


def mbpp(benchmark_data, ids: range) -> list[str]:
    rows = map(
        json.loads,
        (benchmark_data / "mbpp" / "mbpp.jsonl").read_text(encoding="utf-8").splitlines(),
    )
    return [row["code"].replace("\r\n", "\n") for row in rows if row["task_id"] in ids]


@pytest.mark.parametrize(
    ("line", "mutations", "refactorings"),
    [
        (
            2,
            [
                "xs = [x for x in xs if x > 3]",
                "xs = [x for x in xs if x >= 4]",
                "xs = [x for x in xs]",
            ],
            [
                "xs = [x for x in xs if 3 <= x]",
                "xs = [x for x in xs if not x < 3]",
                "xs = [x for x in xs if x > 2]",
            ],
        ),
        (
            3,
            ["xs = xs[:2] + xs[2:]", "xs = xs[3:] + xs[:3]", "xs = xs[-2:] + xs[:-2]"],
            ["xs = [*xs[2:], *xs[:2]]"],
        ),
        (
            4,
            ["xs = [max(x, 5) for x in xs]", "xs = [min(x, 6) for x in xs]"],
            [
                "xs = [min(5, x) for x in xs]",
                "xs = [x if x < 5 else 5 for x in xs]",
                "xs = [min(item, 5) for item in xs]",
            ],
        ),
        (6, ["xs = sorted(xs)", "xs = xs[::-1]"], ["xs = sorted(xs)[::-1]"]),
        (
            7,
            ["xs = [sum(xs)] + xs", "xs = xs + [max(xs)]"],
            ["xs.append(sum(xs))", "xs += [sum(xs)]"],
        ),
        (8, ["xs = xs[:-1]", "xs = xs[1:]"], ["xs = list(reversed(xs))"]),
    ],
)
def test_micro_lines_get_near_misses_and_equal_rewrites(line, mutations, refactorings):
    assert set(mutations) <= texts(MICRO, line, "mutate")
    assert set(refactorings) <= texts(MICRO, line, "refactor")


def test_a_comprehension_becomes_a_loop_and_carries_its_label_on_the_last_line():
    (loop,) = [v for v in ast_variants(MICRO) if v.operator == "loop" and v.start == 2]
    assert loop.text == (
        "    result = []\n    for x in xs:\n        if x >= 3:\n            result.append(x)\n"
        "    xs = result\n"
    )
    changed = loop.apply(MICRO).splitlines()
    assert changed[loop.label_line(MICRO)] == "    xs = result"


def test_variants_are_distinct_programs_that_compile_and_differ_from_the_source():
    for unit in ("line", "block"):
        variants = ast_variants(PROGRAM, unit=unit, donors=[MICRO])
        trees = collections.Counter(
            ast.dump(ast.parse(variant.apply(PROGRAM))) for variant in variants
        )
        assert len(variants) > 20
        assert max(trees.values()) == 1
        assert ast.dump(ast.parse(PROGRAM)) not in trees
        for variant in variants:
            compile(variant.apply(PROGRAM), "variant", "exec")


def test_a_variant_of_a_line_replaces_exactly_one_statement():
    spans = statement_spans(PROGRAM)
    for variant in ast_variants(PROGRAM):
        if variant.end < variant.start:
            assert variant.operator == "insert"
        elif variant.operator == "swap":
            assert any(
                (variant.start, middle) in spans for middle in range(variant.start, variant.end)
            )
        else:
            assert (variant.start, variant.end) in spans


def test_every_statement_line_is_changed_and_nothing_else():
    changed = {variant.start for variant in ast_variants(PROGRAM) if variant.operator != "insert"}
    assert changed == {
        4,
        7,
        8,
        10,
        11,
        12,
        13,
        14,
        15,
        16,
        17,
        18,
    }  # no import, docstring, comment or blank line


def test_the_rest_of_the_program_stays_byte_for_byte():
    lines = PROGRAM.splitlines(keepends=True)
    for unit in ("line", "block"):
        for variant in ast_variants(PROGRAM, unit=unit):
            changed = variant.apply(PROGRAM)
            assert changed.startswith("".join(lines[: variant.start - 1]) + variant.text)
            assert changed.endswith("".join(lines[variant.end :]))


def test_odd_formatting_around_the_change_survives():
    source = "def f(a,b):\n\tif( a>b )  :   # why\n\t\treturn (a+b) *2 ;\n\treturn a  -  b\n"
    changed = texts(source, 2)
    assert {"if( a>=b )  :   # why", "if( b<a )  :   # why"} <= changed
    assert all("# why" in text for text in changed)
    assert "return (a-b) *2 ;" in texts(source, 3)
    assert "return a  -  b" not in texts(source, 4)
    assert all(v.text.startswith("\t") for v in ast_variants(source) if v.start > 1 and v.text)


def test_new_lines_use_the_indentation_of_the_program():
    source = "def f(xs):\n  return [x + 1 for x in xs]\n"
    (loop,) = [v for v in ast_variants(source) if v.operator == "loop"]
    assert loop.text == "  result = []\n  for x in xs:\n    result.append(x + 1)\n  return result\n"


def test_columns_are_counted_in_bytes_after_wide_characters():
    source = 'def f(s, n):\n    return "é→😀" + s[n:] if n < 3 else s\n'
    assert 'return "é→😀" + s[n:] if n <= 3 else s' in texts(source, 2)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("return a * (b + c)", "return (b + c) * a"),
        ("return a * (b + c)", "return a * (c + b)"),
        ("return a * (b - c)", "return a + (b - c)"),
        ("return (a - b) / c", "return c / (a - b)"),
        ("return a - b / c", "return b / c - a"),
        ("return a * b - c", "return c - a * b"),
        ("return a - b * c ** 2", "return a - (b + c ** 2)"),
        ("return a if not b == c else c", "return a if b != c else c"),
        ("return -int(a + b)", "return -(a + b)"),
    ],
)
def test_parentheses_come_in_only_where_the_meaning_needs_them(line, wanted):
    assert wanted in texts(f"def f(a, b, c):\n    {line}\n", 2)


def test_de_morgan_and_connectives():
    source = "def f(a, b):\n    if a > 1 and b:\n        return a\n    return b\n"
    changed = texts(source, 2)
    assert {
        "if not (a <= 1 or not b):",
        "if b and a > 1:",
        "if a > 1 or b:",
        "if a > 1:",
        "if b:",
    } <= changed


def test_fstrings_are_left_alone():
    source = "def f(a, b):\n    return f'{a + b} {a > 1!r:>{b}}' + str(a - b)\n"
    for variant in ast_variants(source):
        if variant.start == variant.end == 2 and variant.operator not in (
            "delete",
            "replace",
            "return",
            "term",
        ):
            assert "f'{a + b} {a > 1!r:>{b}}'" in variant.text


def test_statements_that_share_a_line_are_changed_in_place():
    source = "def f(a):\n    x = 1; y = a - x\n    if y > 2: return x\n    return y\n"
    assert {"x = 2; y = a - x", "x = 1; y = x - a"} <= texts(source, 2)
    assert {"if y >= 2: return x", "if y > 2: return None"} <= texts(source, 3)


def test_a_statement_on_the_line_of_its_header_never_becomes_several_lines():
    source = (
        "def f(a):\n    if a > 2: return a + 1\n    else: return [x for x in a]\n    return 0\n"
    )
    for variant in ast_variants(source):
        if variant.start in (2, 3) and variant.operator != "insert":
            assert variant.text.count("\n") == 1


def test_a_statement_over_several_lines_is_one_unit():
    source = "def f(a):\n    x = max(\n        a,\n        3,\n    )\n    return x\n"
    spans = {
        (variant.start, variant.end)
        for variant in ast_variants(source)
        if 2 <= variant.start <= variant.end <= 5
    }
    assert spans == {(2, 5)}
    assert "    x = min(\n        a,\n        3,\n    )\n" in {
        variant.text for variant in ast_variants(source)
    }


def test_a_header_may_span_lines_and_stand_in_any_compound_statement():
    source = (
        "async def f(xs,\n            n=2):\n    async for x in xs:\n        n -= x\n"
        "    try:\n        n = 1 - n\n    except ValueError:\n        n = 0\n"
        "    else:\n        n += 1\n"
        "    while (n > 3\n           and n < 9):\n        n -= 1\n"
        "    match n + 1:\n        case 1 if n > 0:\n            n = n - 2\n    return n\n"
    )
    spans = {(variant.start, variant.end) for variant in ast_variants(source)}
    assert {
        (1, 2),
        (4, 4),
        (6, 6),
        (8, 8),
        (10, 10),
        (11, 12),
        (13, 13),
        (14, 14),
        (16, 16),
        (17, 17),
    } <= spans


def test_labels_fall_on_the_new_line_or_on_what_follows_a_deletion():
    source = "x = 1\n# a note\n\ny = x\n"
    deleted = next(v for v in ast_variants(source) if v.operator == "delete" and v.start == 1)
    assert deleted.apply(source) == "# a note\n\ny = x\n"
    assert deleted.label_line(source) == 2
    assert Variant(4, 4, "", "delete", "mutate").label_line(source) is None
    assert Variant(4, 3, "x = 2\n", "insert", "mutate").label_line(source) == 3
    assert Variant(1, 1, "x = (1,\n     2)\n", "replace", "mutate").label_line(source) == 1


def test_the_only_statement_of_a_block_is_deleted_by_pass():
    source = "def f(a):\n    if a > 1:\n        a = 2\n    return a\n"
    assert "pass" in texts(source, 3)


def test_donors_lend_only_statements_whose_names_exist():
    donor = (
        "def g(values):\n    values = values[1:]\n    other = unknown(values)\n    return values\n"
    )
    source = "def f(values):\n    values = values + [1]\n    return values\n"
    changed = [
        v.text.strip() for seed in range(8) for v in ast_variants(source, donors=[donor], seed=seed)
    ]
    assert "values = values[1:]" in changed
    assert not any("unknown" in text for text in changed)


def test_a_donor_that_does_not_parse_lends_nothing():
    assert "donor" not in {
        variant.operator for variant in ast_variants(MICRO, donors=["def broken(:\n"])
    }
    assert "donor" in {
        variant.operator for variant in ast_variants(MICRO, donors=["def broken(:\n", PROGRAM])
    }


def test_rewrites_do_not_call_a_builtin_that_the_program_hides():
    source = (
        "def f(list, n):\n    sum = []\n"
        "    for x in list:\n        sum.append(x + n)\n    return sum\n"
    )
    for unit in ("line", "block"):
        assert not any(
            re.search(r"\b(list|sum)\(", v.text) for v in ast_variants(source, unit=unit)
        )


def test_the_same_seed_gives_the_same_variants_and_another_seed_others():
    for unit in ("line", "block"):
        first = ast_variants(PROGRAM, unit=unit, donors=[MICRO], seed=1)
        assert first == ast_variants(PROGRAM, unit=unit, donors=[MICRO], seed=1)
        assert first != ast_variants(PROGRAM, unit=unit, donors=[MICRO], seed=2)


def test_max_per_line_bounds_each_line_and_keeps_both_intents():
    variants = ast_variants(PROGRAM, max_per_line=4)
    per_line = collections.Counter(v.start for v in variants if v.operator not in ("insert",))
    assert max(per_line.values()) <= 4
    assert {v.intent for v in variants if v.start == 12} == {"mutate", "refactor"}
    assert len({v.operator for v in variants}) > 12
    assert ast_variants(PROGRAM, max_per_line=0) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("def f(:\n",), "does not parse"),
        (("x = 1\ry = 2\n",), "carriage return"),
        (("x = 1\n", "word"), "'line' or 'block'"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ast_variants(*arguments)


@pytest.mark.parametrize("line", ["start V = 0 -> V = 1", "start   V = 0 => V = 1"])
def test_a_malformed_rule_is_named_by_its_line(line):
    with pytest.raises(ValueError, match=f"rules.py: .* of '{line}'"):
        parsed(line)


def test_an_empty_program_has_no_variants():
    assert ast_variants("") == []
    assert ast_variants("import os\n\n# nothing\n", unit="block") == []


@pytest.mark.parametrize("unit", ["line", "block"])
def test_refactorings_keep_what_the_program_does_and_mutations_mostly_do_not(unit):
    inputs = (
        ([4, 7, 2, 12, -6, 9],),
        ([], 3),
        ([1, 8, 7, 7, 10, 11], 11),
        ([10, 3, 2],),
        ([-4, 8], 8),
    )
    same = collections.defaultdict(list)
    for variant in ast_variants(PROGRAM, unit=unit):
        changed = variant.apply(PROGRAM)
        same[variant.intent].append(
            all(run(changed, *each) == run(PROGRAM, *each) for each in inputs)
        )
    assert sum(same["refactor"]) / len(same["refactor"]) > 0.95
    assert sum(same["mutate"]) / len(same["mutate"]) < 0.25


def test_blocks_are_rewritten_as_wholes():
    source = (
        "def f(xs, n):\n    ys = []\n"
        "    for x in xs:\n        if x > n:\n            ys.append(x * 2)\n"
        "    if n > 3:\n        return ys\n    else:\n        return xs\n"
    )
    variants = {(v.start, v.end, v.text): v for v in ast_variants(source, unit="block")}
    assert (2, 5, "    ys = [x * 2 for x in xs if x > n]\n") in variants
    assert (6, 9, "    return ys if n > 3 else xs\n") in variants
    assert (6, 9, "    if n <= 3:\n        return xs\n    else:\n        return ys\n") in variants
    assert (6, 9, "    if n > 3:\n        return xs\n    else:\n        return ys\n") in variants
    assert (3, 5, "") in variants
    assert (3, 5, "    if x > n:\n        ys.append(x * 2)\n") in variants
    several = [v for v in variants.values() if v.operator == "several lines"]
    assert {v.intent for v in several} == {"mutate", "refactor"}
    for variant in several:
        old, new = source.splitlines()[variant.start - 1 : variant.end], variant.text.splitlines()
        assert (
            len(old) != len(new)
            or sum(one != other for one, other in zip(old, new, strict=True)) > 1
        )


def test_a_loop_that_reads_what_it_builds_does_not_become_a_comprehension():
    source = (
        "def f(xs):\n    ys = []\n    for x in xs:\n        if x not in ys:\n"
        "            ys.append(x)\n    return ys\n"
    )
    assert not any(v.operator == "loop" for v in ast_variants(source, unit="block"))


@pytest.mark.slow
def test_mbpp_references_give_many_sound_variants(benchmark_data):
    counts = collections.Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source in mbpp(benchmark_data, range(601, 975, 4)):
            spans, known = statement_spans(source), ast.dump(ast.parse(source))
            variants = ast_variants(source)
            programs = {variant.apply(source) for variant in variants}
            assert len(programs) == len(variants)
            for variant in variants:
                counts[variant.intent] += 1
                if (
                    variant.start <= variant.end
                    and variant.operator != "swap"
                    and ";" not in source
                ):
                    assert (variant.start, variant.end) in spans
            for program in list(programs)[::10]:
                assert ast.dump(ast.parse(program)) != known
    assert counts["mutate"] > 3000
    assert counts["refactor"] > 500


def test_blocks_of_mbpp_references_compile(benchmark_data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source in mbpp(benchmark_data, range(1, 975, 25)):
            for variant in ast_variants(source, unit="block"):
                compile(variant.apply(source), "variant", "exec")
                assert 1 <= variant.start <= variant.end <= source.count("\n") + 1
