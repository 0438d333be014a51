"""The supervised loss on the references of a rollout's tasks, for supervised.diff."""

import common
from prm_data import rows


def check_task(task: dict) -> None:
    """Raises ValueError for a task that cannot be judged or has no reference."""
    rows.check_reference(task, "the supervised loss learns references")


def learn(policy, tokenizer, rollout, mini_batch: list[list[int]], weight: float) -> float:
    """Adds the gradients of weight times -log pi, the mean over the tokens of the references of a
    mini-batch's tasks, each once. Returns this rank's part of it: the sum over ranks is the loss.

    A reference follows its task's `prefix` and what the prompt opens, as in sft.py. mini_batch:
    rows of the rollout, a list for each forward pass; there are as many forward passes of
    references, on every rank, of whatever length. InputError where the policy cannot read one.
    """
    known = {}  # by task_id: the prompt's ids, the reference's ids
    for i in (i for part in mini_batch for i in part):
        task = rollout.tasks[i]
        if task["task_id"] not in known:
            text = task["solution"].removeprefix(task.get("prefix", ""))
            text = common.after_opening(text, rollout.openings[i], task.get("prefix"))
            ids = common.encode_completion(tokenizer, text)
            known[task["task_id"]] = rollout.prompts[i], ids
    pairs = list(known.values())
    longest = max((len(prompt) + len(ids) for prompt, ids in pairs), default=0)
    common.check_length("the policy", policy, longest)
    (num_tokens,) = common.all_sum(sum(len(ids) for _, ids in pairs))
    total = 0.0
    for number in range(len(mini_batch)):
        share = pairs[number :: len(mini_batch)]
        input_ids, mask = common.pad_pairs([p for p, _ in share], [ids for _, ids in share])
        logprobs, _ = policy.completion_logprobs(input_ids, mask)  # (B, L)
        loss = -weight * logprobs.sum() / max(num_tokens, 1)
        (loss * common.world_size()).backward()
        total += loss.item()
    return total
