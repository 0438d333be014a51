"""Examples: the labelled texts that reward models learn from, and how they become token ids.

An example is a text: the fields of its row, with `text`, `eos` (whether an EOS follows the text),
and a label: `labels`, one a line (prm.jsonl); or `outcome` (outcome rows); or, where texts are
compared (pairs.jsonl, outcome rows), `group` and `preferred`: any preferred text of a group makes a
pair with any other text of the group. Texts are completions, programs or parts of them; but those
of pairs.jsonl may be reasonings, and follow the prompt `as_written`.
"""

import re
from collections.abc import Iterator

import sandbox
from common.batches import pad
from common.files import read_jsonl
from common.flags import InputError
from common.lines import lines_of
from common.reward_models import OUTCOME_REWARDS
from common.texts import (
    AUTO_FORMAT,
    PROMPT_FIELDS,
    PromptFormat,
    encode_prompt,
    encode_prompt_of,
    encode_text,
)
from kernels import masking

PRM_FIELDS = {**PROMPT_FIELDS, "completions": list, "labels": list}  # of prm.jsonl
PAIR_FIELDS = {**PROMPT_FIELDS, "chosen": str, "rejected": str}  # of pairs.jsonl
OUTCOME_FIELDS = {**PROMPT_FIELDS, "completion": str, "status": str}  # of outcome rows


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_prm_row(row: dict) -> None:
    """Raises ValueError where lines and labels of a prm.jsonl row do not fit together."""
    lines, labels = row["completions"], row["labels"]
    if len(lines) != len(labels):
        raise ValueError(
            f"field 'labels' has {len(labels)} labels for the {len(lines)} lines of field "
            "'completions'"
        )
    for index, (line, label) in enumerate(zip(lines, labels, strict=True)):
        last = index == len(lines) - 1  # the last line alone may lack its newline
        one_line = isinstance(line, str) and lines_of(line) == [line]
        if not one_line or not (last or line.endswith("\n")):
            raise ValueError(
                f"field 'completions': item {index} must be one line of text with its newline"
            )
        if label is not None and not _is_number(label):
            raise ValueError(f"field 'labels': item {index} must be a number or null")
    if all(label is None for label in labels):
        raise ValueError("field 'labels' has no label: every line is null")


def check_classification_row(row: dict) -> None:
    """check_prm_row, and labels that the two classes of a line PRM can have."""
    check_prm_row(row)
    for index, label in enumerate(row["labels"]):
        if label is not None and not -1 <= label <= 1:
            raise ValueError(
                f"field 'labels': item {index} must lie in [-1, 1] for --objective classification"
            )


def _labelled_ends(
    examples: list[dict], table: masking.LineTable
) -> Iterator[tuple[dict, dict[int, int]]]:
    """Each encoded example, and the places among its `text_ids` in which its labelled lines end, by
    the line's index; -1 for a line that ends in no token."""
    for start in range(0, len(examples), 256):
        part = examples[start : start + 256]
        ids = pad([row["text_ids"] for row in part])
        mask = pad([[1] * len(row["text_ids"]) for row in part]).bool()
        num_lines = max(len(row["labels"]) for row in part)
        ends = masking.line_end_positions(ids, mask, table, num_lines).tolist()
        for row, places in zip(part, ends, strict=True):
            yield row, {i: places[i] for i, x in enumerate(row["labels"]) if x is not None}


def check_lines_have_tokens(path: str, examples: list[dict], table: masking.LineTable) -> None:
    """Raises InputError where a labelled line of an encoded example ends in no token, since the
    tokenizer does not keep newlines. path: of their prm.jsonl; table: common.line_table."""
    for number, (_, ends) in enumerate(_labelled_ends(examples, table), 1):
        for line, place in ends.items():
            if place < 0:
                raise InputError(
                    f"{path}:{number}: line {line} of field 'completions' ends in no token; "
                    "does this tokenizer keep newlines?"
                )


def cut_changed_programs(examples: list[dict], table: masking.LineTable) -> None:
    """Cuts off what follows the last labelled line from the `text_ids` of changed programs (rows of
    --method mutate), once check_lines_have_tokens has passed.

    A causal model's loss does not read those tokens. They are cut off here, after the whole text
    was encoded, and not in the text: a tokenizer may merge the newline of the labelled line with
    the indentation of the next line. Rows of other methods stay whole: shorter rows would fall in
    other micro-batches, and sums have another order there. table: common.line_table.
    """
    for row, ends in _labelled_ends(examples, table):
        if row.get("origin") in ("mutate", "refactor"):
            row["text_ids"] = row["text_ids"][: max(ends.values()) + 1]


def check_rated_row(row: dict) -> None:
    """Raises ValueError for a row of pairs.jsonl without its two ratings in [0, 1]."""
    for field in ("chosen_rating", "rejected_rating"):
        if not _is_number(row.get(field)) or not 0 <= row[field] <= 1:
            raise ValueError(
                f"field {field!r} must be a number in [0, 1], as other rows have ratings"
            )


def check_outcome_row(row: dict) -> None:
    """Raises ValueError for an outcome row whose status is not a verdict's."""
    if row["status"] not in sandbox.OUTCOMES:
        expected = ", ".join(sandbox.OUTCOMES)
        raise ValueError(f"field 'status' must be one of {expected}, got {row['status']!r}")
    if not isinstance(row.get("terminated", True), bool):
        raise ValueError("field 'terminated' must be true or false")
    if not isinstance(row.get("opening", ""), str):
        raise ValueError("field 'opening' must be str")


def fenced(text: str, prefix: str = "", closed: bool = True) -> str:
    """A program as a chat model writes it, whole and in a code fence: "```python", the task's
    prefix, the text, and "```" where the text is closed. A text with a fence stays as it is."""
    if "```" in text:
        return text
    text = "```python\n" + prefix + text
    return text + "\n" * (not text.endswith("\n")) + "```" if closed else text


def fence_labelled_lines(row: dict) -> dict:
    """A row of prm.jsonl whose lines stand in a code fence (`fenced`). Lines of the fence and of
    the task's prefix have no label."""
    text, prefix = "".join(row["completions"]), row.get("prefix") or ""
    lines = re.findall(r"[^\n]*\n|[^\n]+", fenced(text, prefix))
    before = 1 + prefix.count("\n") if "```" not in text else 0
    labels = [None] * before + row["labels"]
    labels += [None] * (len(lines) - len(labels))
    meta = dict(row.get("meta") or {})
    if "changed" in meta:
        meta["changed"] = [line + before for line in meta["changed"]]
    return row | {"completions": lines, "labels": labels, "meta": meta}


def read_labelled_lines(path: str, check=check_prm_row, fence: bool = False) -> list[dict]:
    """The examples of a prm.jsonl, with `labels`; fence: by `fence_labelled_lines`."""
    rows = read_jsonl(path, PRM_FIELDS, check)
    rows = [fence_labelled_lines(row) for row in rows] if fence else rows
    return [row | {"text": "".join(row["completions"]), "eos": False} for row in rows]


def read_pairs(path: str, rated: bool = False) -> list[dict]:
    """The examples of a pairs.jsonl: the two texts of each row, a group of their own.

    rated: with `rating`, from the fields chosen_rating and rejected_rating, which all rows have or
    no row has. Without these fields chosen texts are rated 1 and rejected texts 0.
    """
    rows, examples = read_jsonl(path, PAIR_FIELDS), []
    has_ratings = any({"chosen_rating", "rejected_rating"} & row.keys() for row in rows)
    if rated and has_ratings:
        read_jsonl(path, {}, check_rated_row)
    for number, row in enumerate(rows):
        for side in ("chosen", "rejected"):
            example = {"text": row[side], "eos": False, "as_written": True, "group": number}
            example["preferred"] = side == "chosen"
            if rated:
                example["rating"] = float(
                    row[f"{side}_rating"] if has_ratings else side == "chosen"
                )
            examples.append(row | example)
    return examples


def read_outcomes(path: str, fence: bool = False) -> list[dict]:
    """The examples of outcome rows, with `outcome`, an index of OUTCOME_REWARDS; those of a task
    are a group. A row without a verdict (a failure of the sandbox) is left out. fence: programs
    stand in a code fence (`fenced`), which a completion that was cut off does not close."""
    classes, examples = list(OUTCOME_REWARDS), []
    for row in read_jsonl(path, OUTCOME_FIELDS, check_outcome_row):
        outcome = sandbox.outcome(row["status"])
        if outcome is not None:
            text, ended = row["completion"], row.get("terminated", True)
            text = fenced(text, row.get("prefix") or "", ended) if fence else text
            example = {"text": row.get("opening", "") + text, "eos": ended}
            example |= {"group": row["task_id"], "preferred": outcome == "passed"}
            examples.append(row | example | {"outcome": classes.index(outcome)})
    if not examples:
        raise InputError(f"{path}: no row has a verdict")
    return examples


def read_examples(config) -> list[dict]:
    """The examples of config.data, of the kind that config.objective needs (train_prm.py)."""
    if config.objective == "regression":
        return read_labelled_lines(config.data, fence=config.fence)
    if config.objective == "classification":
        return read_labelled_lines(config.data, check_classification_row, config.fence)
    rated, first = config.objective == "score", {"status": ""}
    if config.objective == "ranking":
        first = read_jsonl(config.data, PROMPT_FIELDS)[0]
    if rated or "status" not in first:
        if config.fence:
            raise InputError("--fence is for programs; the texts of pairs.jsonl are as written")
        return read_pairs(config.data, rated)
    return read_outcomes(config.data, config.fence)


def encode_examples(
    tokenizer, examples: list[dict], prompt_format: PromptFormat = AUTO_FORMAT
) -> None:
    """Adds to each example its token ids: `prompt_ids` and `text_ids`.

    A completion goes on after what its prompt opens (texts.encode_prompt_of); a line that the
    prompt has already, that of the opening tag, leaves `text` and `labels`.
    """
    for row in examples:
        if row.get("as_written"):
            row["prompt_ids"] = encode_prompt(tokenizer, row, prompt_format)
        else:
            text = row["text"]
            row["prompt_ids"], row["text"] = encode_prompt_of(tokenizer, row, text, prompt_format)
            gone = len(lines_of(text)) - len(lines_of(row["text"]))
            if gone and "labels" in row:
                row["labels"] = row["labels"][gone:]
        row["text_ids"] = encode_text(tokenizer, row["text"])
        if row["eos"]:
            row["text_ids"].append(tokenizer.eos_token_id)


def example_length(row: dict) -> int:
    """Tokens of an encoded example, prompt and text."""
    return len(row["prompt_ids"]) + len(row["text_ids"])
