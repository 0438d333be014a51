"""Text around the models: prompts as token ids, and the program and reasoning in a completion."""

import functools
import re
from typing import NamedTuple

from common.flags import InputError
from kernels import masking

PROMPT_FIELDS = {"task_id": str, "prompt": str}


def unix(text: str) -> str:
    """Text with Python's line ends: each CRLF and each lone CR becomes a newline."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> list[str]:
    """The lines of a text, each with its line end; the last line may have none."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)


class PromptFormat(NamedTuple):
    """How a task becomes a prompt."""

    kind: str = "auto"  # "chat": by the chat template; "plain": as text; "auto": chat, if possible
    system_prompt: str | None = None  # chat: the turn before the user's
    prefill: str = ""  # the beginning of the answer, with which the prompt ends

    def is_chat(self, tokenizer) -> bool:
        """InputError where a tokenizer without a chat template would need one."""
        has_template = bool(tokenizer.chat_template)
        if not has_template and (self.kind == "chat" or self.system_prompt):
            flag = "--prompt_format chat" if self.kind == "chat" else "--system_prompt"
            raise InputError(
                f"{flag}: {tokenizer.name_or_path or 'the tokenizer'}: no chat template"
            )
        if self.kind == "plain" and self.system_prompt:
            raise InputError("--system_prompt is for chats, --prompt_format plain is not a chat")
        return has_template and self.kind != "plain"


AUTO_FORMAT = PromptFormat()


def prompt_format_of(config) -> PromptFormat:
    """The format that a stage's flags ask for, or that a reward model's config.json names: how its
    training data was written."""
    kind = getattr(config, "prompt_format", "auto")
    return PromptFormat(kind, getattr(config, "system_prompt", None))


def encode_prompt(tokenizer, task: dict, prompt_format: PromptFormat = AUTO_FORMAT) -> list[int]:
    """Token ids of a task's prompt: by the tokenizer's chat template, or as plain text.

    Plain text begins as the tokenizer begins a text (BOS, in some models). A newline follows the
    prompt, except where the completion goes on in mid-program (`prefix`).
    """
    if prompt_format.is_chat(tokenizer):
        text = _render_chat(tokenizer, task["prompt"], prompt_format)
        return tokenizer(text, add_special_tokens=False).input_ids
    text = task["prompt"] if task.get("prefix") else task["prompt"].rstrip("\n") + "\n"
    text += prompt_format.prefill
    ids, whole = tokenizer(text, add_special_tokens=False).input_ids, tokenizer(text).input_ids
    for start in range(len(whole) - len(ids) + 1):  # an EOS at the end is left out
        if whole[start : start + len(ids)] == ids:
            return whole[: start + len(ids)]
    return ids


def _render_chat(tokenizer, prompt: str, prompt_format: PromptFormat) -> str:
    """The chat up to where the answer goes on. A template may change an answer's end, so that the
    prefill is found by a mark after the prefill."""
    mark = "[[the answer goes on here]]"
    messages = [{"role": "user", "content": prompt}]
    if prompt_format.system_prompt:
        messages.insert(0, {"role": "system", "content": prompt_format.system_prompt})
    if prompt_format.prefill:
        messages.append({"role": "assistant", "content": prompt_format.prefill + mark})
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not prompt_format.prefill
        )
    except Exception as error:  # of jinja2: a template refuses some roles with a word of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{tokenizer.name_or_path}: its chat template: {reason}") from None
    return text.rpartition(mark)[0] if prompt_format.prefill else text


def encode_text(tokenizer, text: str) -> list[int]:
    """Token ids of a text that follows a prompt.

    Where a tokenizer puts a space before a text (masking.space_context), the text is encoded after
    a newline, as it would stand in the whole.
    """
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if _decoding(tokenizer)[1]:
        newline, whole = tokenizer(["\n", "\n" + text], add_special_tokens=False).input_ids
        if whole[: len(newline)] == newline:
            return whole[len(newline) :]
    return ids


def encode_completion(tokenizer, text: str) -> list[int]:
    """Token ids of a completion given as text, with EOS: for training data, never for a rollout."""
    return [*encode_text(tokenizer, text), tokenizer.eos_token_id]


@functools.lru_cache(maxsize=8)
def _decoding(tokenizer) -> tuple[set[int], list[int]]:
    """What decoding leaves out, and what it decodes before a text (masking.space_context)."""
    return masking.special_ids(tokenizer), masking.space_context(tokenizer)


def decode(tokenizer, rows: list[list[int]]) -> list[str]:
    """The texts of completions, as they follow their prompts: a space at the beginning stays, and
    so do think and answer tags that are special tokens. Other special tokens are left out."""
    special, context = _decoding(tokenizer)
    start = len(masking.decode(tokenizer, context))
    kept = [[*context, *(i for i in row if i not in special)] for row in rows]
    return [masking.decode(tokenizer, ids)[start:] for ids in kept]


def opening_of(tokenizer, prompt: list[int]) -> str:
    """What a prompt opens and its completion closes: "<think>" and the blanks after it where the
    prompt ends so, as some chat templates do; else ""."""
    opened = re.search(r"<think>\s*\Z", decode(tokenizer, [prompt[-16:]])[0])
    return opened.group() if opened else ""


OPENED = re.compile(r"\A\s*<think>\s*")


def after_opening(text: str, opening: str, prefix: str | None = None) -> str:
    """A completion as it goes on after what its prompt opens (`opening_of`).

    The tag is not written twice. A text without thinking, as a reference program, closes the
    thinking first: common.extract_program looks for the program behind the tag. A text that goes on
    after a task's prefix follows the tag at once, unless it is a code fence.
    """
    if not opening:
        return text
    if text.lstrip().startswith("<think>"):
        return text.removeprefix(opening) if text.startswith(opening) else OPENED.sub("", text)
    if "</think>" in text:  # the thinking, without the tag that opens it
        return text
    return ("</think>" if prefix and "```" not in text else "</think>\n\n") + text


def encode_prompt_of(
    tokenizer, task: dict, text: str, prompt_format: PromptFormat = AUTO_FORMAT
) -> tuple[list[int], str]:
    """Token ids of the prompt of a completion that a reward model reads, and the completion as it
    follows them: `after_opening`. What closes the thinking ends the prompt, so that the completion
    has no other lines; a tag that the prompt has is left out of the completion."""
    prompt = encode_prompt(tokenizer, task, prompt_format)
    whole = after_opening(text, opening_of(tokenizer, prompt), task.get("prefix"))
    added = max(0, len(whole) - len(text))
    return prompt + encode_text(tokenizer, whole[:added]) * (added > 0), whole[added:]


def cut_at(text: str, stops: tuple[str, ...]) -> str:
    """The text before the first of the stop strings."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=None)]


FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>.*?</answer>\s*", re.DOTALL)


def framed(text: str) -> str:
    """A reasoning as reward models read it: one newline at each end, Python's line ends."""
    return "\n" + unix(text).strip() + "\n"


def reasoning_of(text: str) -> str | None:
    """The text between the think tags of <think>...</think><answer>...</answer> (ReCode's format),
    `framed`; None for a text of another form, or with a tag twice."""
    match = FORMAT.fullmatch(text)
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    if match is None or any(text.count(tag) != 1 for tag in tags):
        return None
    return framed(match.group(1))
