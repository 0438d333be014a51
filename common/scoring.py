"""What models say of tokens: log-probs of a policy, values of a critic, scores of reward models."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch

from common.batches import (
    Rollout,
    batches_by_length,
    limits_of,
    pad,
    pad_pairs,
    pad_rollout,
)
from common.checks import check_length
from common.distributed import all_sum, device, rank
from common.flags import InputError
from common.lines import lines_of, put_at_line_ends
from common.models import line_table, load_tokenizer
from common.reward_models import OUTCOME_REWARDS, head_of, load_scorer
from common.runs import progress_bar
from common.sharding import reshard, shard
from common.texts import (
    PromptFormat,
    encode_prompt,
    encode_prompt_of,
    encode_text,
    prompt_format_of,
    reasoning_of,
)
from kernels import masking


def logprobs_of(
    policy, rollout: Rollout, rows: list[int], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs (B, T) of the completions' tokens under a policy, and its entropies (B, T)."""
    inputs, _, before = pad_rollout(rollout, rows, policy)
    return policy.completion_logprobs(
        mask=rollout.mask[rows],
        temperature=temperature,
        targets=rollout.ids[rows],
        before=before,
        **inputs,
    )


def values_of(critic, rollout: Rollout, rows: list[int]) -> torch.Tensor:
    """Values (B, T): the return that the critic expects before token t, given the prompt and tokens
    0 to t - 1."""
    inputs, _, before = pad_rollout(rollout, rows, critic)
    return critic(**inputs).logits.squeeze(-1).flatten()[before]


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
        inputs, at, _ = pad_rollout(rollout, rows, reward_model)
        scores[rows] = scores_of(reward_model, **inputs).flatten()[at]
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


def scores_of(reward_model, input_ids: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
    """Scores (B, L) float32 of a reward model after each token of input_ids (B, L).

    config.score_activation, which train_prm.py sets, says how scores follow from logits; without
    that field a score is the logit.
    """
    logits = reward_model(input_ids=input_ids, **inputs).logits.float()  # (B, L, C)
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
    logits, ids, mask = (x[: len(texts)] for x in (logits, ids, mask))
    if score_pooling == "lines":
        return masking.mean_over_lines(logits, ids, mask, table)[:, None]
    if table is None:
        last = [len(row["prompt_ids"]) + len(row["text_ids"]) - 1 for row in examples]
        positions = torch.tensor(last, dtype=torch.long, device=ids.device)[:, None]  # (B, 1)
    else:
        num_lines = max((len(row["labels"]) for row in examples), default=0)
        positions = masking.line_end_positions(ids, mask, table, num_lines).clamp(min=0)  # (B, P)
    return logits.gather(1, positions[..., None].expand(-1, -1, logits.shape[2]))


def _learned_from_pairs(config) -> bool:
    """Whether a reward model of ours has learned from pairs.jsonl, whose texts have no EOS."""
    return getattr(config, "reward_model_kind", None) == "reasoning_rm"


def _encode_prompts(
    tokenizer, tasks: list[dict], texts: list[str], prompt_format: PromptFormat
) -> tuple[list[list[int]], list[str]]:
    """texts.encode_prompt_of for each text: prompts, and texts as they follow their prompts."""
    pairs = [
        encode_prompt_of(tokenizer, task, text, prompt_format)
        for task, text in zip(tasks, texts, strict=True)
    ]
    return [prompt for prompt, _ in pairs], [text for _, text in pairs]


@torch.no_grad()
def score_texts(
    reward_model,
    tokenizer,
    tasks: list[dict],
    texts: list[str | None],
    batch_size: int,
    ended: list[bool] | None = None,
    max_tokens: float = math.inf,
    path: str | None = None,
) -> torch.Tensor:
    """Scores (N,) of a reward model for texts that follow their tasks' prompts; NaN for None.

    A score stands at the text's last token. Where config.score_pooling is "lines" (train_prm.py),
    a score is the mean of those at the ends of the text's lines. Prompts have the format that the
    model was trained with, which its config.json names. ended: the texts that an EOS follows; with
    the list the texts are completions, which follow what their prompts open, as in training
    (texts.encode_prompt_of). A model that has learned from pairs.jsonl read texts as written,
    without EOS, and reads them so here. batch_size, max_tokens, ranks: as in `batches_by_length`.
    path: of the model, for an InputError where a text is too long for the model.
    """
    prompt_format = prompt_format_of(reward_model.config)
    read = [text or "" for text in texts]
    if ended is None or _learned_from_pairs(reward_model.config):
        prompts = [encode_prompt(tokenizer, task, prompt_format) for task in tasks]
        ended = [False] * len(read)
    else:
        prompts, read = _encode_prompts(tokenizer, tasks, read, prompt_format)
    rows = [encode_text(tokenizer, text) for text in read]
    for row, ends in zip(rows, ended, strict=True):
        row += [tokenizer.eos_token_id] * ends
    pooled = getattr(reward_model.config, "score_pooling", "last") == "lines"
    scores = torch.zeros(len(rows), device=device())
    lengths = [len(prompt) + len(row) for prompt, row in zip(prompts, rows, strict=True)]
    if path is not None:
        check_length(path, reward_model, max(lengths, default=0))
    for micro in batches_by_length(lengths, batch_size, max_tokens):
        ids, mask = pad_pairs([prompts[i] for i in micro], [rows[i] for i in micro])  # (B, L)
        token_scores = scores_of(reward_model, ids)  # (B, L)
        if not micro:
            continue
        if pooled:
            scores[micro] = masking.mean_over_lines(token_scores, ids, mask, line_table(tokenizer))
        else:
            last = torch.tensor([lengths[i] - 1 for i in micro], device=ids.device)[:, None]
            scores[micro] = token_scores.gather(1, last).squeeze(1)
    absent = torch.tensor([text is None for text in texts], device=scores.device)
    return scores.masked_fill(absent, float("nan"))


def score_reasoning(reward_model, tokenizer, rollout: Rollout, config) -> torch.Tensor:
    """Scores (N,) of the text between each completion's think tags; NaN for a completion of another
    form, or without a model."""
    if reward_model is None:
        return torch.full((len(rollout.ids),), torch.nan, device=device())
    reasonings = [reasoning_of(text) for text in rollout.judged_texts()]
    limits = limits_of(config) | {"path": config.reasoning_rm}
    return score_texts(reward_model, tokenizer, rollout.tasks, reasonings, **limits)


class RewardModel(NamedTuple):
    """A PRM or ORM for reinforcement learning, frozen."""

    model: torch.nn.Module
    tokenizer: object  # the reward model's own
    reads_ids: bool  # the policy's tokens are its own: it reads the ids as they were sampled
    path: str | None = None  # of its folder, for an InputError where a text is too long for it


def load_reward_model(
    path: str | None, tokenizer, config=None, is_critic: bool = False
) -> RewardModel | None:
    """A PRM or ORM for a policy with this tokenizer, prompted as config says; None without a path.

    It reads the policy's token ids where its tokenizer has the same vocabulary and chat template,
    its prompts have the same format, its config.json names no `step_token`, and its texts had an
    EOS (`score_texts`); else `score_lines` and `score_outcomes` give it the text. is_critic: the
    critic starts as this model; InputError where it does not read ids. Warns of a PRM whose
    held-out AUC is below 0.95: a policy finds what such a PRM gets wrong.
    """
    if path is None:
        return None
    own, model = load_tokenizer(path), load_scorer(path, run_config=config).eval()
    same = own.get_vocab() == tokenizer.get_vocab() and own.chat_template == tokenizer.chat_template
    asked, read = prompt_format_of(config), prompt_format_of(model.config)
    same = same and asked.is_chat(tokenizer) == read.is_chat(own)
    same = same and asked.system_prompt == read.system_prompt
    reads_ids = same and getattr(model.config, "step_token", None) is None
    reads_ids = reads_ids and not _learned_from_pairs(model.config)
    if is_critic and not reads_ids:
        raise InputError(f"--value_init prm: {path} does not read the policy's tokens")
    if not reads_ids:
        check_line_tokens(path, model, own)
    report = Path(path) / "report.json"
    auc = json.loads(report.read_text()).get("eval_auc") if report.is_file() else None
    if rank() == 0 and auc is not None and auc < 0.95:
        print(f"warning: the held-out AUC of {path} is below 0.95; expect it to be over-optimised")
    if rank() == 0 and not reads_ids:
        print(f"{path} reads completions as text, with its own tokenizer and prompt format")
    return RewardModel(shard(model, config), own, reads_ids, path)


def check_line_tokens(path: str, model, tokenizer) -> None:
    """Raises InputError where the scores of lines have no token to be read at: a `step_token` of
    config.json that is no token, or a tokenizer that drops newlines."""
    step_token = getattr(model.config, "step_token", None)
    if step_token is not None and step_token not in tokenizer.get_vocab():
        raise InputError(f"{path}: config.json: step_token {step_token!r} is no token")
    if step_token is None:
        ids = pad([tokenizer("a\nb\n", add_special_tokens=False).input_ids])
        if masking.lines_ended(ids, ids >= 0, line_table(tokenizer)).sum() != 2:
            raise InputError(
                f"{path}: its tokenizer keeps no newlines, and config.json names no step_token"
            )


@torch.no_grad()
def score_text_lines(
    reward_model,
    tokenizer,
    tasks: list[dict],
    texts: list[str],
    batch_size: int,
    title: str = "",
    max_tokens: float = math.inf,
    path: str | None = None,
) -> list[list[float]]:
    """Scores of a PRM for the lines of texts (common.lines_of) that follow their tasks' prompts,
    by the PRM's own tokenizer; NaN for a line that ends in no token, and for a line that opens the
    thinking where the prompt does (texts.encode_prompt_of).

    A line's score is read at the token in which the line ends. Where config.json has a `step_token`
    this token is put in after each line, and the score is read there. title: of a progress bar.
    batch_size, max_tokens, ranks: as in `batches_by_length`.
    path: of the model, for an InputError where a text is too long for the model.
    """
    step_token = getattr(reward_model.config, "step_token", None)
    prompt_format = prompt_format_of(reward_model.config)
    given = [len(lines_of(text)) for text in texts]
    prompts, texts = _encode_prompts(tokenizer, tasks, texts, prompt_format)
    lines = [lines_of(text) for text in texts]
    pieces = lines if step_token is not None else [[text] for text in texts]
    step = [] if step_token is None else [tokenizer.convert_tokens_to_ids(step_token)]
    rows, step_ends = [], []  # ids of each text; positions of its step tokens
    for row in pieces:
        ids, ends = [], []
        for piece in row:
            ids += encode_text(tokenizer, piece) + step
            ends.append(len(ids) - 1)
        rows.append(ids)
        step_ends.append(ends)
    scores: list[list[float]] = [[] for _ in texts]
    lengths = [len(prompt) + len(row) for prompt, row in zip(prompts, rows, strict=True)]
    if path is not None:
        check_length(path, reward_model, max(lengths, default=0))
    bar = progress_bar(title, len(rows)) if title else None
    for micro in batches_by_length(lengths, batch_size, max_tokens):
        ids, mask = pad_pairs([prompts[i] for i in micro], [rows[i] for i in micro])  # (B, L)
        token_scores = scores_of(reward_model, ids)  # (B, L)
        if not micro:
            continue
        if step:
            ends = pad([[len(prompts[i]) + end for end in step_ends[i]] for i in micro], value=-1)
        else:
            num_lines = max(len(lines[i]) for i in micro)
            ends = masking.line_end_positions(ids, mask, line_table(tokenizer), num_lines)
        values = token_scores.gather(1, ends.clamp(min=0))  # (B, lines)
        values = values.masked_fill(ends < 0, torch.nan).tolist()
        for i, row in zip(micro, values, strict=True):
            scores[i] = [math.nan] * (given[i] - len(lines[i])) + row[: len(lines[i])]
        if bar is not None:
            bar.update(len(micro))
    if bar is not None:
        bar.close()
    return scores


def score_lines(
    prm: RewardModel | None,
    rollout: Rollout,
    batches: list[list[list[int]]],
    table: masking.LineTable,
    config,
) -> torch.Tensor:
    """Scores (N, T) of a PRM where lines of the completions end; 0 without a PRM.

    A PRM that reads the policy's ids has a score after every token. Any other reads prompts and
    completions as text (`score_text_lines`), and each line's score goes to the policy's token in
    which the line ends (`put_at_line_ends`).
    """
    if prm is None or prm.reads_ids:
        return score_tokens(prm and prm.model, rollout, batches)
    texts, limits = rollout.judged_texts(), limits_of(config) | {"path": prm.path}
    scores = score_text_lines(prm.model, prm.tokenizer, rollout.tasks, texts, **limits)
    opened = [len(lines_of(text)) for text in texts]  # with the line of the prompt's "<think>"
    own = [len(lines_of(text)) for text in rollout.texts]
    scores = [row[more - n :] for row, more, n in zip(scores, opened, own, strict=True)]
    return put_at_line_ends(scores, rollout, table, config.score_prose)


def score_outcomes(
    orm: RewardModel | None, rollout: Rollout, batches: list[list[list[int]]], config
) -> torch.Tensor:
    """Scores (N,) of an ORM at the completions' last tokens, by its own tokenizer where that is not
    the policy's; 0 without an ORM. The text of a completion that ended is followed by an EOS."""
    if orm is None or orm.reads_ids:
        scores = score_tokens(orm and orm.model, rollout, batches)  # (N, T)
        return scores.gather(1, rollout.mask.sum(1, keepdim=True) - 1).squeeze(1)
    texts, limits = rollout.judged_texts(), limits_of(config) | {"path": orm.path}
    ended = rollout.terminated.tolist()
    return score_texts(orm.model, orm.tokenizer, rollout.tasks, texts, ended=ended, **limits)


def load_reasoning_rm(path: str | None, config=None) -> tuple:
    """A reasoning reward model, frozen, and its tokenizer, which need not be the policy's; None and
    None without a path. config: of the run."""
    if path is None:
        return None, None
    return shard(load_scorer(path, run_config=config).eval(), config), load_tokenizer(path)


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
    """Rescales the critic by `fit_returns`; returns its new values (B, T). Rank 0 says by what: a
    scale of 0 leaves nothing of the head that the critic started with."""
    scale, shift = fit_returns(values, returns, mask)
    if rank() == 0:
        print(f"--value_init prm: value = {scale:.3g} * score + {shift:.3g}")
        if scale == 0:
            print("warning: the PRM's scores do not rise with the returns; the head starts at 0")
    rescale_critic(critic, scale, shift)
    return scale * values + shift
