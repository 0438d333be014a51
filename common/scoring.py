"""What models say of tokens: log-probs of a policy, values of a critic, scores of reward models."""

import json
from pathlib import Path

import torch

from common.batches import Rollout, pad_pairs, pad_rollout
from common.distributed import all_sum, device, rank, reshard, shard
from common.flags import InputError
from common.models import OUTCOME_REWARDS, head_of, line_table, load_scorer, load_tokenizer
from common.texts import encode_prompt, encode_text, prompt_format_of, reasoning_of
from kernels import masking


def logprobs_of(
    policy, rollout: Rollout, rows: list[int], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs (B, T) of the completions' tokens under a policy, and its entropies (B, T)."""
    input_ids, mask, positions = pad_rollout(rollout, rows)  # (B, L), (B, L), (B, T)
    logprobs, entropies = policy.completion_logprobs(input_ids, mask, temperature)  # (B, L)
    return logprobs.gather(1, positions), entropies.gather(1, positions)


def values_of(critic, rollout: Rollout, rows: list[int]) -> torch.Tensor:
    """Values (B, T): the return that the critic expects before token t, given the prompt and tokens
    0 to t - 1."""
    input_ids, _, positions = pad_rollout(rollout, rows)
    return critic(input_ids=input_ids).logits.squeeze(-1).gather(1, positions - 1)


@torch.no_grad()
def score_policy(
    policy, rollout: Rollout, batches: list[list[list[int]]], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`logprobs_of` for the whole rollout: log-probs (N, T), entropies (N, T)."""
    logprobs, entropies = torch.zeros(2, *rollout.ids.shape, device=rollout.ids.device)
    for rows in (rows for mini_batch in batches for rows in mini_batch):
        logprobs[rows], entropies[rows] = logprobs_of(policy, rollout, rows, temperature)
    return logprobs, entropies


@torch.no_grad()
def score_critic(critic, rollout: Rollout, batches: list[list[list[int]]]) -> torch.Tensor:
    """`values_of` for the whole rollout: values (N, T)."""
    values = torch.zeros(rollout.ids.shape, device=rollout.ids.device)
    for rows in (rows for mini_batch in batches for rows in mini_batch):
        values[rows] = values_of(critic, rollout, rows)
    return values


@torch.no_grad()
def score_tokens(reward_model, rollout: Rollout, batches: list[list[list[int]]]) -> torch.Tensor:
    """Scores (N, T) of a reward model after each token of the completions; 0 without a model."""
    scores = torch.zeros(rollout.ids.shape, device=rollout.ids.device)
    for rows in (rows for mini_batch in batches for rows in mini_batch if reward_model is not None):
        input_ids, _, positions = pad_rollout(rollout, rows)
        scores[rows] = scores_of(reward_model, input_ids).gather(1, positions)
    return scores


def scores_of_logits(logits: torch.Tensor, score_activation: str) -> torch.Tensor:
    """Scores (...) of a reward model's logits (..., C).

    score_activation "none": the logit; "sigmoid_signed": 2 sigmoid(logit) - 1; "expected_outcome":
    sum_c p_c r_c over CodeRL's four outcomes.
    """
    if score_activation == "expected_outcome":
        rewards = logits.new_tensor(list(OUTCOME_REWARDS.values()))
        return (logits.softmax(-1) @ rewards).clamp(-1, 1)  # rounding may lead outside
    if score_activation == "sigmoid_signed":
        return torch.tanh(logits.squeeze(-1) / 2)
    return logits.squeeze(-1)


def scores_of(reward_model, input_ids: torch.Tensor) -> torch.Tensor:
    """Scores (B, L) float32 of a reward model after each token of input_ids (B, L).

    config.score_activation, which train_prm.py sets, says how scores follow from logits; without
    that field a score is the logit.
    """
    logits = reward_model(input_ids=input_ids).logits.float()  # (B, L, C)
    return scores_of_logits(logits, getattr(reward_model.config, "score_activation", "none"))


def logits_at(
    reward_model, examples: list[dict], table: masking.LineTable | None, score_pooling: str = "last"
) -> torch.Tensor:
    """Logits (B, P, C) of encoded examples (common/examples.py) where a reward model is read.

    Without a line table: at the last token of each text (P = 1). With it: at the last token of each
    line (P lines; undefined for a line that an example does not have), or, with score_pooling
    "lines", their mean over the lines (P = 1).
    """
    texts = [row["text_ids"] for row in examples]
    ids, mask = pad_pairs([row["prompt_ids"] for row in examples], texts)  # (B, L), (B, L)
    logits = reward_model(input_ids=ids).logits.float()  # (B, L, C)
    if score_pooling == "lines":
        return masking.mean_over_lines(logits, ids, mask, table)[:, None]
    if table is None:
        last = [[len(row["prompt_ids"]) + len(row["text_ids"]) - 1] for row in examples]
        positions = torch.tensor(last, device=ids.device)  # (B, 1)
    else:
        num_lines = max(len(row["labels"]) for row in examples)
        positions = masking.line_end_positions(ids, mask, table, num_lines).clamp(min=0)  # (B, P)
    return logits.gather(1, positions[..., None].expand(-1, -1, logits.shape[2]))


@torch.no_grad()
def score_texts(
    reward_model, tokenizer, tasks: list[dict], texts: list[str | None], batch_size: int
) -> torch.Tensor:
    """Scores (N,) of a reward model for texts that follow their tasks' prompts; NaN for None.

    A score stands at the text's last token. Where config.score_pooling is "lines" (train_prm.py),
    a score is the mean of those at the ends of the text's lines. Prompts have the format that the
    model was trained with, which its config.json names.
    """
    prompt_format = prompt_format_of(reward_model.config)
    prompts = [encode_prompt(tokenizer, task, prompt_format) for task in tasks]
    rows = [encode_text(tokenizer, text or "") for text in texts]
    pooled = getattr(reward_model.config, "score_pooling", "last") == "lines"
    scores = torch.zeros(len(rows), device=device())
    order = sorted(range(len(rows)), key=lambda i: len(prompts[i]) + len(rows[i]))
    for start in range(0, len(order), batch_size):
        micro = order[start : start + batch_size]
        ids, mask = pad_pairs([prompts[i] for i in micro], [rows[i] for i in micro])  # (B, L)
        token_scores = scores_of(reward_model, ids)  # (B, L)
        if pooled:
            scores[micro] = masking.mean_over_lines(token_scores, ids, mask, line_table(tokenizer))
        else:
            last = [[len(prompts[i]) + len(rows[i]) - 1] for i in micro]
            last = torch.tensor(last, device=ids.device)  # (B, 1)
            scores[micro] = token_scores.gather(1, last).squeeze(1)
    absent = torch.tensor([text is None for text in texts], device=scores.device)
    return scores.masked_fill(absent, float("nan"))


def score_reasoning(reward_model, tokenizer, rollout: Rollout, config) -> torch.Tensor:
    """Scores (N,) of the text between each completion's think tags; NaN for a completion of another
    form, or without a model."""
    if reward_model is None:
        return torch.full((len(rollout.ids),), torch.nan, device=device())
    reasonings = [reasoning_of(text) for text in rollout.judged_texts()]
    size = config.per_device_train_batch_size
    return score_texts(reward_model, tokenizer, rollout.tasks, reasonings, size)


def load_reward_model(path: str | None, tokenizer):
    """A PRM or ORM that reads the policy's tokens, frozen; None without a path.

    InputError where the reward model's tokenizer is not the policy's. Warns of a PRM whose held-out
    AUC is below 0.95: a policy finds what such a PRM gets wrong.
    """
    if path is None:
        return None
    if load_tokenizer(path).get_vocab() != tokenizer.get_vocab():
        raise InputError(f"{path}: its tokenizer is not the policy's")
    report = Path(path) / "report.json"
    auc = json.loads(report.read_text()).get("eval_auc") if report.is_file() else None
    if (auc or 1) < 0.95 and rank() == 0:
        print(f"warning: the held-out AUC of {path} is below 0.95; expect it to be over-optimised")
    return shard(load_scorer(path).eval())


def load_reasoning_rm(path: str | None) -> tuple:
    """A reasoning reward model, frozen, and its tokenizer, which need not be the policy's; None and
    None without a path."""
    return (shard(load_scorer(path).eval()), load_tokenizer(path)) if path else (None, None)


@torch.no_grad()
def rescale_critic(critic, scale: float, shift: float) -> None:
    """Changes the critic's head so that its values v become scale * v + shift."""
    reshard(critic)
    head = head_of(critic)
    head.weight.mul_(scale)
    head.bias.mul_(scale).add_(shift)


def fit_returns(
    values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor
) -> tuple[float, float]:
    """Least squares of returns (B, T) on values (B, T) over the valid tokens of all ranks.

    Returns (scale, shift) of the best scale * value + shift with scale >= 0. Values that say
    nothing get scale 0 and the mean return.
    """
    v, r = values[mask].double(), returns[mask].double()  # (tokens,), (tokens,)
    n, v_sum, r_sum, vv, vr = all_sum(len(v), v.sum(), r.sum(), (v * v).sum(), (v * r).sum())
    n = max(n, 1.0)
    variance, covariance = vv / n - (v_sum / n) ** 2, vr / n - v_sum * r_sum / n**2
    scale = max(covariance / variance, 0.0) if variance > 1e-12 else 0.0
    return scale, (r_sum - scale * v_sum) / n


def fit_critic(critic, values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor):
    """Rescales the critic by `fit_returns`; returns its new values (B, T)."""
    scale, shift = fit_returns(values, returns, mask)
    rescale_critic(critic, scale, shift)
    return scale * values + shift
