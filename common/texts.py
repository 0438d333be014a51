"""Text around the models: prompts as token ids, and the program and reasoning in a completion."""

import re

PROMPT_FIELDS = {"task_id": str, "prompt": str}


def unix(text: str) -> str:
    """Text with Python's line ends: each CRLF and each lone CR becomes a newline."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def encode_prompt(tokenizer, task: dict) -> list[int]:
    """Token ids of a task's prompt: by the tokenizer's chat template, or as plain text without one.

    In the plain format a newline follows the prompt, except where the completion goes on in
    mid-program (`prefix`).
    """
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": task["prompt"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False).input_ids
    text = task["prompt"] if task.get("prefix") else task["prompt"].rstrip("\n") + "\n"
    has_bos = getattr(tokenizer, "add_bos_token", False) and tokenizer.bos_token_id is not None
    bos = [tokenizer.bos_token_id] if has_bos else []
    return bos + tokenizer(text, add_special_tokens=False).input_ids


def encode_completion(tokenizer, text: str) -> list[int]:
    """Token ids of a completion given as text, with EOS: for training data, never for a rollout."""
    return [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>.*?</answer>\s*", re.DOTALL)


def reasoning_of(text: str) -> str | None:
    """The text between the think tags of <think>...</think><answer>...</answer> (ReCode's format);
    None for a text of another form, or with a tag twice."""
    match = FORMAT.fullmatch(text)
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    if match is None or any(text.count(tag) != 1 for tag in tags):
        return None
    return match.group(1)
