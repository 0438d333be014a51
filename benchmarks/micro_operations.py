"""The operations of the micro benchmark: code, phrases, near misses, and what a plan says of each.

In templates {k} is the operation's number and {j} is k + 1.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Operation(NamedTuple):
    """One list operation: its line of code and the English for it."""

    code: str  # right-hand side of the line `xs = ...`
    phrases: tuple[str, str]  # two ways in which a prompt asks for it
    near_misses: tuple[str, ...]  # wrong lines; the first is the teacher's misconception
    k: tuple[int, int]  # smallest and largest number


OPERATIONS = [
    Operation(
        "[x for x in xs if x >= {k}]",
        ("keep only values from {k} up", "drop everything below {k}"),
        ("[x for x in xs if x > {k}]", "[x for x in xs if x <= {k}]", "[x for x in xs if x < {k}]"),
        k=(-4, 6),
    ),
    Operation(
        "[x for x in xs if x < {k}]",
        ("keep only values below {k}", "discard values of {k} or more"),
        (
            "[x for x in xs if x <= {k}]",
            "[x for x in xs if x > {k}]",
            "[x for x in xs if x >= {k}]",
        ),
        k=(3, 12),
    ),
    Operation(
        "[x for x in xs if x % 2 == 0]",
        ("keep only even values", "throw away odd values"),
        ("[x for x in xs if x % 2 == 1]",),
        k=(1, 1),
    ),
    Operation(
        "[x for x in xs if x % 2 == 1]",
        ("keep only odd values", "throw away even values"),
        ("[x for x in xs if x % 2 == 0]",),
        k=(1, 1),
    ),
    Operation(
        "[x + {k} for x in xs]",
        ("increase every value by {k}", "add {k} to each value"),
        ("[x - {k} for x in xs]", "[x + {j} for x in xs]"),
        k=(1, 9),
    ),
    Operation(
        "[x - {k} for x in xs]",
        ("decrease every value by {k}", "subtract {k} from each value"),
        ("[{k} - x for x in xs]", "[x + {k} for x in xs]", "[x - {j} for x in xs]"),
        k=(1, 9),
    ),
    Operation(
        "[x * {k} for x in xs]",
        ("multiply every value by {k}", "scale all values {k} times"),
        ("[x + {k} for x in xs]", "[x * {j} for x in xs]"),
        k=(2, 4),
    ),
    Operation(
        "[-x for x in xs]",
        ("flip the sign of every value", "negate all values"),
        ("[abs(x) for x in xs]", "[-abs(x) for x in xs]"),
        k=(1, 1),
    ),
    Operation(
        "[abs(x) for x in xs]",
        ("make every value positive", "drop all minus signs"),
        ("[-x for x in xs]", "[-abs(x) for x in xs]"),
        k=(1, 1),
    ),
    Operation(
        "[x // {k} for x in xs]",
        ("divide every value by {k}", "shrink all values {k} times"),
        ("[x % {k} for x in xs]", "[x // {j} for x in xs]"),
        k=(2, 4),
    ),
    Operation(
        "[x % {k} for x in xs]",
        ("take every value modulo {k}", "wrap all values at {k}"),
        ("[x // {k} for x in xs]", "[x % {j} for x in xs]"),
        k=(5, 9),
    ),
    Operation(
        "[min(x, {k}) for x in xs]",
        ("cap every value at {k}", "replace numbers above {k} by {k}"),
        ("[max(x, {k}) for x in xs]", "[min(x, {j}) for x in xs]"),
        k=(2, 9),
    ),
    Operation(
        "[max(x, {k}) for x in xs]",
        ("raise every value to at least {k}", "replace numbers below {k} by {k}"),
        ("[min(x, {k}) for x in xs]", "[max(x, {j}) for x in xs]"),
        k=(-2, 7),
    ),
    Operation(
        "xs[{k}:] + xs[:{k}]",
        ("rotate the list left by {k}", "move the first {k} elements to the end"),
        ("xs[-{k}:] + xs[:-{k}]", "xs[{j}:] + xs[:{j}]"),
        k=(1, 4),
    ),
    Operation(
        "xs[-{k}:] + xs[:-{k}]",
        ("rotate the list right by {k}", "move the last {k} elements to the front"),
        ("xs[{k}:] + xs[:{k}]", "xs[-{j}:] + xs[:-{j}]"),
        k=(1, 4),
    ),
    Operation(
        "xs[{k}:]",
        ("skip the first {k} elements", "cut {k} elements off the front"),
        ("xs[:-{k}]", "xs[{j}:]", "xs[:{k}]"),
        k=(1, 3),
    ),
    Operation(
        "xs[:-{k}]",
        ("skip the last {k} elements", "cut {k} elements off the end"),
        ("xs[{k}:]", "xs[:-{j}]", "xs[-{k}:]"),
        k=(1, 3),
    ),
    Operation(
        "xs[::-1]",
        ("reverse the list", "turn the list around"),
        ("sorted(xs, reverse=True)",),
        k=(1, 1),
    ),
    Operation(
        "sorted(xs)",
        ("sort the list", "put the values in ascending order"),
        ("sorted(xs, reverse=True)", "xs[::-1]"),
        k=(1, 1),
    ),
    Operation(
        "sorted(xs, reverse=True)",
        ("sort from high to low", "put the values in descending order"),
        ("sorted(xs)", "xs[::-1]"),
        k=(1, 1),
    ),
    Operation(
        "xs + [{k}]",
        ("add {k} at the end of the list", "append the number {k}"),
        ("[{k}] + xs", "xs + [{j}]"),
        k=(0, 9),
    ),
    Operation(
        "[{k}] + xs",
        ("add {k} at the front of the list", "prepend the number {k}"),
        ("xs + [{k}]", "[{j}] + xs"),
        k=(0, 9),
    ),
    Operation(
        "xs + [sum(xs)]",
        ("append the sum of the list", "put the total at the end"),
        ("xs + [len(xs)]", "[sum(xs)] + xs"),
        k=(1, 1),
    ),
    Operation(
        "[len(xs)] + xs",
        ("prepend the length of the list", "put the count at the front"),
        ("xs + [len(xs)]", "[sum(xs)] + xs"),
        k=(1, 1),
    ),
    Operation(
        "xs + [max(xs, default=0)]",
        ("append the largest value", "put the maximum at the end"),
        ("xs + [min(xs, default=0)]", "[max(xs, default=0)] + xs"),
        k=(1, 1),
    ),
    Operation(
        "[min(xs, default=0)] + xs",
        ("prepend the smallest value", "put the minimum at the front"),
        ("[max(xs, default=0)] + xs", "xs + [min(xs, default=0)]"),
        k=(1, 1),
    ),
    Operation(
        "list(dict.fromkeys(xs))",
        ("remove repeated values", "keep the first of equal values"),
        ("sorted(set(xs))", "[x for x in xs if xs.count(x) == 1]"),
        k=(1, 1),
    ),
]

# What a plan says of each line of code, near misses included, in words that no prompt uses.
PLANS = {
    "[x for x in xs if x >= {k}]": "retain numbers that are at least {k}",
    "[x for x in xs if x > {k}]": "retain numbers that are greater than {k}",
    "[x for x in xs if x <= {k}]": "retain numbers that are at most {k}",
    "[x for x in xs if x < {k}]": "retain numbers that are less than {k}",
    "[x for x in xs if x % 2 == 0]": "retain numbers that are even",
    "[x for x in xs if x % 2 == 1]": "retain numbers that are odd",
    "[x + {k} for x in xs]": "each number gets larger by {k}",
    "[x - {k} for x in xs]": "each number gets smaller by {k}",
    "[{k} - x for x in xs]": "each number is taken away from {k}",
    "[x * {k} for x in xs]": "each number is the product with {k}",
    "[x // {k} for x in xs]": "each number is the quotient by {k}",
    "[x % {k} for x in xs]": "each number is the remainder by {k}",
    "[-x for x in xs]": "each number gets the opposite sign",
    "[abs(x) for x in xs]": "each number gets a plus sign",
    "[-abs(x) for x in xs]": "each number gets a minus sign",
    "[min(x, {k}) for x in xs]": "each number is limited to at most {k}",
    "[max(x, {k}) for x in xs]": "each number is limited to at least {k}",
    "xs[{k}:] + xs[:{k}]": "shift all places to the left by {k}",
    "xs[-{k}:] + xs[:-{k}]": "shift all places to the right by {k}",
    "xs[{k}:]": "delete from the head this many: {k}",
    "xs[:-{k}]": "delete from the tail this many: {k}",
    "xs[:{k}]": "retain from the head this many: {k}",
    "xs[-{k}:]": "retain from the tail this many: {k}",
    "xs[::-1]": "arrange in the opposite order",
    "sorted(xs)": "arrange in rising order",
    "sorted(xs, reverse=True)": "arrange in falling order",
    "xs + [{k}]": "insert at the tail the constant {k}",
    "[{k}] + xs": "insert at the head the constant {k}",
    "xs + [sum(xs)]": "insert at the tail what all numbers add up to",
    "[sum(xs)] + xs": "insert at the head what all numbers add up to",
    "xs + [len(xs)]": "insert at the tail how many numbers there are",
    "[len(xs)] + xs": "insert at the head how many numbers there are",
    "xs + [max(xs, default=0)]": "insert at the tail the highest number",
    "[max(xs, default=0)] + xs": "insert at the head the highest number",
    "xs + [min(xs, default=0)]": "insert at the tail the lowest number",
    "[min(xs, default=0)] + xs": "insert at the head the lowest number",
    "list(dict.fromkeys(xs))": "retain each number once in the given order",
    "sorted(set(xs))": "retain each number once in rising order",
    "[x for x in xs if xs.count(x) == 1]": "retain numbers that occur only once",
}
# Plan lines of the teacher that state no step.
VAGUE_PLAN_LINES = [
    "handle this step",
    "do what is asked here",
    "apply the next operation to the numbers",
]
COMMENT_LINES = ["    # the next step\n", "    # as asked\n", "    # see the line below\n"]
CONNECTIVES = ["", "", "now ", "then ", "next "]  # before a phrase that is not the first


@dataclass(frozen=True)
class Step:
    """One line of a micro program: which operation, its number k, which of its two phrases."""

    operation: int
    k: int
    phrase: int

    def fill(self, template: str) -> str:
        return template.format(k=self.k, j=self.k + 1)

    def code(self) -> str:
        return self.fill(OPERATIONS[self.operation].code)

    def near_misses(self) -> list[str]:
        return [self.fill(template) for template in OPERATIONS[self.operation].near_misses]

    def request(self) -> str:
        """The phrase by which a prompt asks for this step."""
        return self.fill(OPERATIONS[self.operation].phrases[self.phrase])

    def plans(self) -> dict[str, str]:
        """{code: plan line} of this step's code, which is first, and of each of its near misses."""
        operation = OPERATIONS[self.operation]
        return {
            self.fill(t): PLANS[t.replace("{j}", "{k}")].format(k=self.k + ("{j}" in t))
            for t in (operation.code, *operation.near_misses)
        }
