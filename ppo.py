"""PPO for code with rewards from tests, from a line-level process reward model (PRM), or from both.

The reward of completion token t, with T the number of lines and T_m the last token of line m:

    r_t = 1[t = last] * R_O + lambda * sum_m 1[t = T_m] * R_PRM(line m) / norm - kl_coef * log(pi_old / pi_ref)_t

PSGPO (Dai et al., 2024, eq. 3; the defaults): R_O is R_UT, 1 when all tests pass, else 0; lambda is 0.25 when they fail
and 0.025 when they pass; norm is T, so that more lines do not pay; the PRM's output is clipped to [-1, 1] (ours), so
that a failing program never earns more than a passing one; `--value_init prm` starts the critic from the PRM's weights.
PRLCoder (Ye et al., 2025, eqs. 1 to 3) compares a PRM with outcome reward models (ORM) and gives the policy no test
result: `--outcome_reward none --lambda_fail 1 --process_norm none --prm A`, and `--outcome_reward orm --orm A`. So that
none leaks in, lambda_fail is then the weight of every sample, and tests run for the log alone.
Neither paper gives its PPO settings; these are the usual ones. Different from both, by choice: the reference policy of
the KL term is the starting policy (PRLCoder prints theta_old, with which the term would hold nothing in place).

    python ppo.py --tasks train.jsonl --model_name_or_path runs/sft --output_dir runs/ppo
    python ppo.py --tasks train.jsonl --model_name_or_path runs/sft --prm runs/prm --value_init prm --output_dir runs/psgpo
    torchrun --standalone --nproc_per_node=2 ppo.py --tasks train.jsonl --model_name_or_path runs/sft --output_dir runs/ppo

A verdict that the sandbox could not reach is no reward: that sample does not count, anywhere. A completion that is cut
off at the length limit ends there: its value is not bootstrapped.

Studies of what lets a PRM survive being optimised: other forms of the process reward, ensembles, exact labels in place
of the PRM (`--process_reward oracle`: the bound of what line rewards can do), and `--prm_refresh N`, which goes on
training the PRM on what the policy writes by now. A warning is printed where the PRM's score rises while fewer
programs pass.
"""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

import common
import sandbox
from common import InputError
from kernels import advantages, masking
from prm_data import online


@dataclass
class Config:
    tasks: str  # tasks.jsonl to sample prompts from
    model_name_or_path: str  # policy to start from
    output_dir: str  # run folder; a run that was cut off goes on from its last checkpoint
    outcome_reward: Literal["tests", "fraction", "orm", "none"] = (
        "tests"  # R_O: 1 when every test passes (PSGPO); the
    )
    # share that passes (asked for by PSGPO's reviewers); --orm's score (PRLCoder's outcome arms); 0 (its PRM arm)
    orm: str | None = None  # outcome reward model, read at the completion's last token
    prm: list[str] | None = None  # line-level reward model, or several: an ensemble
    prm_ensemble: Literal["min", "mean", "lower_bound"] = (
        "min"  # per token; lower_bound: mean - standard deviation
    )
    process_reward: Literal["auto", "prm", "oracle", "none"] = (
        "auto"  # auto: prm where --prm is given; oracle: each
    )
    # line's exact label, by executing it in its place in the reference solution (prm_data/gold.py)
    lambda_fail: float = (
        0.25  # weight of the process reward when the tests fail (PSGPO), or always (orm, none)
    )
    lambda_pass: float = 0.025  # ... and when they pass (PSGPO)
    process_norm: Literal["lines", "scored_lines", "constant", "none"] = (
        "lines"  # divide by the response's own lines
    )
    # (PSGPO; comments of score 0 then raise a mean below 0, and pay), by those that --neutral_comments leaves a score
    # (they never do), by a constant, or by 1 (PRLCoder)
    process_norm_lines: float = 8.0  # the constant
    process_clip: float = 1.0  # PRM outputs are clipped to [-x, x]; 0 for no clipping
    process_form: Literal["score", "delta", "min"] = (
        "score"  # r_m (both papers); r_m - r_(m-1), r_0 = 0 (delta of Gao
    )
    # et al., 2024, arXiv 2410.15115, forwards in time); w_m r_m, w = softmax(-r / temperature), whose sum is nearly the
    # minimum over the lines (PURE, Cheng et al., 2025, arXiv 2504.15275)
    process_temperature: float = 0.1  # of min (PURE's code)
    neutral_comments: bool = (
        False  # comments, blank lines and docstrings have no score (PSGPO: in the PRM's labels)
    )
    value_init: Literal["none", "policy", "prm"] = (
        "policy"  # critic starts as the policy with a random head (TRL), or
    )
    # with a zero head, or as the (first) PRM, head and all (PSGPO; how is not published)
    value_rescale: Literal["fit", "range", "none"] = (
        "fit"  # prm: v = a r + b, by least squares on the returns of the
    )
    # first batch; (r + 1) / 2, since labels are in [-1, 1] and returns about in [0, 1] (both ours); r
    critic_warmup_steps: int = (
        0  # the first batches train the critic alone: the policy's learning rate is 0
    )
    max_steps: int = 60  # rollout batches
    num_prompts: int = 16  # prompts a batch, over all processes
    num_generations: int = 4  # completions a prompt
    max_completion_length: int = 128  # tokens
    temperature: float = (
        1.0  # of sampling, and of every log-prob; nothing else shapes the distribution
    )
    num_ppo_epochs: int = 1
    num_mini_batches: int = 2  # optimiser steps an epoch
    per_device_train_batch_size: int = (
        32  # rows a forward pass; changes memory and speed, not the result
    )
    learning_rate: float = 2e-4  # policy; for a pretrained model 1e-6 is usual
    value_learning_rate: float = 5e-4  # critic
    warmup_steps: int = 10  # batches; the first Adam steps are destructive without
    max_grad_norm: float = 1.0
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    kl_coef: float = 0.0  # 0: no reference policy is kept
    gamma: float = 1.0
    lam: float = 0.95
    gae_unit: Literal["token", "line"] = (
        "token"  # line: lambda decays at line ends alone, so that a line is one action
    )
    whiten_advantages: bool = True  # to zero mean and unit variance over the batch
    prm_refresh: int = (
        0  # batches between trainings of the PRM on the policy's rollouts; 0: it stays as it is
    )
    prm_refresh_labels: Literal["gold", "search", "search_masked"] = (
        "gold"  # by references (prm_data/gold.py), or by
    )
    # the policy's own completions (prm_data/search.py), masked: no label after the first bad line
    prm_refresh_window: int = 1280  # the latest rollouts, of which it draws
    prm_refresh_steps: int = 10  # optimiser steps each time
    prm_refresh_batch_size: int = 64  # rollouts a step
    prm_refresh_learning_rate: float = 2e-4
    prm_refresh_num_completions: int = 20  # search: completions of a prefix (PSGPO's K)
    sandbox_workers: int = 1  # processes that run programs, a training process
    sandbox_timeout: float = 3.0  # CPU seconds a program, where the task sets none
    save_steps: int = 20  # batches between checkpoints
    save_total_limit: int = 1  # how many checkpoints stay
    seed: int = 0


def uses_prm(config: Config) -> bool:
    return config.process_reward == "prm" or (
        config.process_reward == "auto" and config.prm is not None
    )


def check_flags(config: Config) -> None:
    """Raises InputError where flags do not fit together."""
    refresh = config.prm_refresh > 0
    processed = uses_prm(config) or config.process_reward == "oracle"
    for wrong, message in (
        (config.prm is None and (uses_prm(config) or config.value_init == "prm"),
         "--process_reward prm and --value_init prm need --prm, a reward model's folder"),
        (config.outcome_reward == "none" and not processed,
         "--outcome_reward none without a process reward leaves nothing to learn from"),
        ((config.outcome_reward == "orm") != (config.orm is not None), "--outcome_reward orm and --orm go together"),
        (config.process_norm == "scored_lines" and not config.neutral_comments,
         "--process_norm scored_lines needs --neutral_comments: else every line has a score"),
        (config.value_rescale != "fit" and config.value_init != "prm", "--value_rescale needs --value_init prm"),
        (refresh and (not uses_prm(config) or len(config.prm) > 1), "--prm_refresh needs one --prm, as process reward"),
        (refresh and common.world_size() > 1, "--prm_refresh runs in one process"),
        (config.num_prompts % (config.num_mini_batches * common.world_size()) > 0,
         "--num_prompts must be a multiple of --num_mini_batches times the number of processes"),
    ):  # fmt: skip
        if wrong:
            raise InputError(message)


def check_task(task: dict, config: Config) -> None:
    """Raises ValueError for a task that cannot be judged, or has no reference where labels need one."""
    sandbox.check_task(task)
    by_gold = config.process_reward == "oracle" or (
        config.prm_refresh > 0 and config.prm_refresh_labels == "gold"
    )
    if by_gold and not isinstance(task.get("solution"), str):
        raise ValueError(
            "field 'solution' must be str: exact labels compare with reference programs"
        )


def combine(scores: torch.Tensor, prm_ensemble: str) -> torch.Tensor:
    """Scores of an ensemble's members (E, ...) as one (...)."""
    if prm_ensemble == "min":
        return scores.amin(0)
    return scores.mean(0) - (scores.std(0, unbiased=False) if prm_ensemble == "lower_bound" else 0)


def shape_scores(scores: torch.Tensor, lines: torch.Tensor, config: Config) -> torch.Tensor:
    """The form of the process reward, --process_form: scores (B, T), read where `lines` (B, T) is true -> (B, T)."""
    if config.process_form == "delta":
        position = torch.arange(lines.shape[1], device=lines.device)
        latest = (
            torch.where(lines, position, -1).cummax(1).values
        )  # (B, T) the last line end up to token t
        before = F.pad(latest, (1, 0), value=-1)[:, :-1]
        return scores - torch.where(before >= 0, scores.gather(1, before.clamp(min=0)), 0)
    if config.process_form == "min":
        weights = torch.where(lines, -scores / config.process_temperature, -torch.inf).softmax(1)
        return torch.where(lines, weights * scores, 0)  # a row without lines has NaN for weights
    return scores


def compose_rewards(
    outcome: torch.Tensor, passed: torch.Tensor, process: torch.Tensor, ends: torch.Tensor, code: torch.Tensor,
    mask: torch.Tensor, config: Config,
) -> torch.Tensor:  # fmt: skip
    """Token rewards (B, T) without the KL term; see the module's docstring.

    outcome (B,): R_O, which goes to the completion's last token. passed (B,) bool: all tests pass. process (B, T): PRM
    score at each token, read at line ends. ends (B, T): tokens in which a line ends; code (B, T): those in which one
    ends that is no comment, blank line or docstring. mask (B, T): the completion's tokens, right-padded.
    """
    lines = code if config.neutral_comments else ends  # (B, T) those with a score
    scores = (
        process.clamp(-config.process_clip, config.process_clip) if config.process_clip else process
    )
    scores = shape_scores(scores, lines, config)
    norm = {
        "lines": ends.sum(1, keepdim=True).clamp(min=1),  # (B, 1)
        "scored_lines": lines.sum(1, keepdim=True).clamp(min=1),
        "constant": config.process_norm_lines,
        "none": 1,
    }[config.process_norm]
    known = passed & (
        config.outcome_reward in ("tests", "fraction")
    )  # else no test result may enter the reward
    weight = torch.where(known, config.lambda_pass, config.lambda_fail)[:, None]  # (B, 1)
    last = mask & (torch.arange(mask.shape[1], device=mask.device) == mask.sum(1, keepdim=True) - 1)
    return weight * scores * lines / norm + outcome[:, None] * last


def code_ends(rollout: common.Rollout, table: masking.LineTable) -> torch.Tensor:
    """Tokens (N, T) in which a line of code ends, and not only comments, blank lines and docstrings."""
    width = max(len(text.splitlines()) for text in rollout.texts)
    kinds = masking.line_kinds(rollout.ids, rollout.mask, table, width)  # (N, lines)
    places = masking.line_end_positions(
        rollout.ids, rollout.mask, table, width
    )  # (N, lines), -1 where none
    is_code = ((kinds == masking.CODE) & (places >= 0)).long()
    return torch.zeros_like(rollout.ids).scatter_reduce(1, places.clamp(min=0), is_code, "amax") > 0


def head_of(critic):
    return next(
        module for name, module in critic.named_modules() if name in ("score", "classifier")
    )


@torch.no_grad()
def rescale_critic(critic, scale: float, shift: float) -> None:
    """Changes the critic's head so that its values become scale * v + shift."""
    common.reshard(critic)
    head = head_of(critic)
    head.weight.mul_(scale)
    head.bias.mul_(scale).add_(shift)


def fit_returns(
    values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor
) -> tuple[float, float]:
    """Scale >= 0 and shift by which values (B, T) come closest to the returns (B, T) in squared error, over the valid
    tokens of all processes. Values that say nothing (scale 0) become the mean return."""
    v, r = values[mask].double(), returns[mask].double()  # (N,), (N,)
    n, v_sum, r_sum, vv, vr = common.all_sum(len(v), v.sum(), r.sum(), (v * v).sum(), (v * r).sum())
    n = max(n, 1.0)
    variance, covariance = vv / n - (v_sum / n) ** 2, vr / n - v_sum * r_sum / n**2
    scale = max(covariance / variance, 0.0) if variance > 1e-12 else 0.0
    return scale, (r_sum - scale * v_sum) / n


def start_critic(config: Config):
    """The critic at the run's first step, by --value_init and --value_rescale (fit: done once there are returns)."""
    critic = common.load_scorer(
        config.prm[0] if config.value_init == "prm" else config.model_name_or_path
    )
    head = head_of(critic)
    if getattr(critic.config, "score_activation", "none") != "none":
        raise InputError(
            f"{config.prm[0]}: its scores are not its logits (score_activation), as a critic's values are"
        )
    with torch.no_grad():
        if config.value_init == "none":
            generator = torch.Generator().manual_seed(common.seed_of(config.seed, "value head"))
            head.weight.normal_(
                0.0, getattr(critic.config, "initializer_range", 0.02), generator=generator
            )
    if config.value_rescale == "range":
        rescale_critic(critic, 0.5, 0.5)
    return critic


def is_over_optimised(prm_scores: list[float], pass_rates: list[float]) -> bool:
    """Whether, of the last 10 updates, the later five have a higher mean PRM score and a lower mean pass rate."""
    rise = sum(prm_scores[-5:]) - sum(prm_scores[-10:-5])
    return len(prm_scores) >= 10 and rise > 0 and sum(pass_rates[-5:]) < sum(pass_rates[-10:-5])


def policy_loss(logprobs, old_logprobs, token_advantages, mask, cliprange: float):
    """Sum over valid tokens of PPO's clipped objective, negated (Schulman et al., 2017, eq. 7); all arguments (B, T).

    Returns the loss, and per token, for the log: log-ratio, whether the clip was active.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0).clamp(-20, 20)
    ratio = log_ratio.exp()
    unclipped = ratio * token_advantages
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange) * token_advantages
    loss = -(torch.minimum(unclipped, clipped) * mask).sum()
    return loss, log_ratio.detach(), ((clipped < unclipped) & mask).detach()


def value_loss(values, old_values, returns, mask, cliprange_value: float):
    """Sum over valid tokens of half the squared error, the larger of the clipped and the unclipped value's; (B, T)."""
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    error = torch.maximum((values - returns).square(), (clipped - returns).square())
    return 0.5 * (error * mask).sum()


def check_reward_models(config: Config, tokenizer) -> None:
    """Raises InputError where a reward model does not read the policy's tokens; warns of a PRM that is not accurate."""
    for path in [*(config.prm or []), *([config.orm] if config.orm else [])]:
        if common.load_tokenizer(path).get_vocab() != tokenizer.get_vocab():
            raise InputError(f"{path}: its tokenizer is not the policy's")
    for path in config.prm or []:
        report = Path(path) / "report.json"
        if (
            report.is_file()
            and (json.loads(report.read_text()).get("eval_auc") or 1) < 0.95
            and common.rank() == 0
        ):
            print(
                f"warning: the held-out AUC of {path} is below 0.95; expect it to be over-optimised"
            )


def main(config: Config) -> None:
    check_flags(config)
    tasks = common.read_jsonl(
        config.tasks, common.PROMPT_FIELDS, lambda task: check_task(task, config)
    )
    for path in [config.model_name_or_path, config.orm, *(config.prm or [])]:
        common.check_model_folder(path)
    checkpoint = common.open_run(config)
    policy_path = checkpoint or config.model_name_or_path
    tokenizer = common.load_tokenizer(policy_path)
    check_reward_models(config, tokenizer)
    policy = common.shard(
        common.load_policy(policy_path).eval()
    )  # eval: no dropout, ever; gradients flow all the same
    critic = common.load_scorer(checkpoint / "value_model") if checkpoint else start_critic(config)
    critic = common.shard(critic.eval())
    reference = (
        common.shard(common.load_policy(config.model_name_or_path).eval())
        if config.kl_coef
        else None
    )
    prm_paths = (
        [checkpoint / "prm"]
        if checkpoint and config.prm_refresh
        else config.prm
        if uses_prm(config)
        else []
    )
    prms = [common.shard(common.load_scorer(path).eval()) for path in prm_paths]
    orm = common.shard(common.load_scorer(config.orm).eval()) if config.orm else None
    models = {"": policy, "value_model": critic} | ({"prm": prms[0]} if config.prm_refresh else {})
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), weight_decay=0.0)
        for name, model in models.items()
    }
    first_step = common.load_optimizers(checkpoint, models, optimizers) if checkpoint else 0
    eos_ids = common.eos_ids(policy, tokenizer)
    table = common.line_table(tokenizer)
    window = online.latest_rollouts(config, tasks) if config.prm_refresh and checkpoint else []
    spent = Counter(label_samples=0, label_programs=0)  # what line labels have cost so far
    cache, prm_scores, pass_rates = {}, [], []
    if checkpoint:
        logged = [
            json.loads(line) for line in common.whole_lines(f"{config.output_dir}/metrics.jsonl")
        ]
        spent.update({name: logged[-1].get(name, 0) for name in spent})
        prm_scores = [row["rewards/prm/mean"] for row in logged]
        pass_rates = [row["rewards/tests/mean"] for row in logged]

    with sandbox.Sandbox(workers=config.sandbox_workers, timeout=config.sandbox_timeout) as runner:
        bar = common.progress_bar("ppo", config.max_steps, first_step)
        for step in range(first_step, config.max_steps):
            started = time.perf_counter()

            # Roll out num_generations completions of each of this process's prompts, and start their programs.
            drawn = common.draw(len(tasks), config.num_prompts, step, config.seed, "ppo prompts")
            mine = common.my_share([
                (tasks[i], [common.seed_of(config.seed, "ppo rollout", step, place, g) for g in range(config.num_generations)])
                for place, i in enumerate(drawn)
            ])  # fmt: skip
            rollout = common.roll_out(
                policy, tokenizer, [common.encode_prompt(tokenizer, task) for task, _ in mine], config.num_generations,
                config.max_completion_length, config.temperature, [seed for _, seeds in mine for seed in seeds],
            )  # fmt: skip
            row_tasks = [task for task, _ in mine for _ in range(config.num_generations)]
            futures = [
                runner.submit(task, common.extract_program(task, text))
                for task, text in zip(row_tasks, rollout.texts, strict=True)
            ]
            oracle = config.process_reward == "oracle"
            handles = online.start_gold(runner, row_tasks, rollout.texts, cache) if oracle else []

            # Meanwhile, score the batch under the old policy, the critic, the reference and the reward models. The rows
            # of a micro-batch stay together in the update, since low-precision results depend on the batch they are in.
            mini_batches = []
            for k in range(config.num_mini_batches):
                rows = [
                    i
                    for i in range(len(row_tasks))
                    if i // config.num_generations % config.num_mini_batches == k
                ]
                rows.sort(key=lambda i, r=rollout: len(r.prompts[i]) + len(r.completions[i]))
                size = config.per_device_train_batch_size
                mini_batches.append([rows[i : i + size] for i in range(0, len(rows), size)])
            old_logprobs, entropies, values, reference_logprobs, process, orm_scores = torch.zeros(
                6, *rollout.ids.shape, device=rollout.ids.device
            )
            with torch.no_grad():
                for rows in (rows for mini_batch in mini_batches for rows in mini_batch):
                    input_ids, on, places = common.pack(rollout, rows)  # (B, L), (B, L), (B, T)
                    logprobs, entropy = policy.completion_logprobs(
                        input_ids, on, config.temperature
                    )  # (B, L)
                    old_logprobs[rows], entropies[rows] = (
                        logprobs.gather(1, places),
                        entropy.gather(1, places),
                    )
                    values[rows] = (
                        critic(input_ids=input_ids).logits.squeeze(-1).gather(1, places - 1)
                    )
                    if reference is not None:
                        logprobs, _ = reference.completion_logprobs(
                            input_ids, on, config.temperature
                        )
                        reference_logprobs[rows] = logprobs.gather(1, places)
                    if prms:
                        scores = torch.stack(
                            [common.scores_of(prm, input_ids) for prm in prms]
                        )  # (E, B, L)
                        process[rows] = combine(scores, config.prm_ensemble).gather(1, places)
                    if orm is not None:
                        orm_scores[rows] = common.scores_of(orm, input_ids).gather(1, places)

            verdicts = [future.result() for future in futures]
            judged = torch.tensor(
                [verdict["status"] != "harness_error" for verdict in verdicts], device=values.device
            )
            passed = torch.tensor(
                [verdict["status"] == "passed" for verdict in verdicts], device=values.device
            )
            mask = (
                rollout.mask & judged[:, None]
            )  # (N, T) a sample without a verdict does not count

            # Reward and advantage.
            if config.outcome_reward == "orm":
                outcome = orm_scores.gather(1, rollout.mask.sum(1, keepdim=True) - 1).squeeze(
                    1
                )  # (N,)
            elif config.outcome_reward == "fraction":
                outcome = torch.tensor(
                    [v["passed"] / max(v["total"], 1) for v in verdicts], device=values.device
                )
            else:
                outcome = passed.float() * (config.outcome_reward == "tests")
            if oracle:
                process = online.gold_labels(handles, row_tasks, rollout, table).nan_to_num(
                    0.0
                )  # (N, T)
            ends = masking.line_ends(rollout.ids, rollout.mask, table)  # (N, T)
            code = code_ends(rollout, table)  # (N, T)
            rewards = compose_rewards(outcome, passed, process, ends, code, rollout.mask, config)
            log_ratio_to_reference = torch.zeros_like(rewards)
            if reference is not None:
                log_ratio_to_reference = (old_logprobs - reference_logprobs) * mask
            shaped = rewards - config.kl_coef * log_ratio_to_reference
            if config.value_init == "prm" and config.value_rescale == "fit" and step == 0:
                _, sums_ahead = advantages.gae(
                    shaped, torch.zeros_like(values), mask, config.gamma, 1.0
                )  # (N, T)
                scale, shift = fit_returns(values, sums_ahead, mask)
                rescale_critic(critic, scale, shift)
                values = scale * values + shift
            lam = torch.where(ends, config.lam, 1.0) if config.gae_unit == "line" else config.lam
            token_advantages, returns = advantages.gae(shaped, values, mask, config.gamma, lam)
            if config.whiten_advantages:
                token_advantages = advantages.whiten(token_advantages, mask)
            explained = advantages.explained_variance(values, returns, mask)

            # Update: each mini-batch is one optimiser step, its losses divided by its tokens over all processes.
            schedule = (config.learning_rate, config.warmup_steps, config.max_steps, "constant")
            value_lr = (
                common.lr_at(step, *schedule) * config.value_learning_rate / config.learning_rate
            )
            policy_step = step - config.critic_warmup_steps
            lr = common.lr_at(policy_step, *schedule) if policy_step >= 0 else 0.0
            for name, rate in (
                ("", lr),
                ("value_model", value_lr),
                ("prm", config.prm_refresh_learning_rate),
            ):
                for group in optimizers[name].param_groups if name in optimizers else []:
                    group["lr"] = rate
            sums = torch.zeros(
                5, dtype=torch.float64
            )  # policy loss, value loss, approximate KL, clipped, ratio
            grad_norm = 0.0
            for _ in range(config.num_ppo_epochs):
                for mini_batch in mini_batches:
                    (num_tokens,) = common.all_sum(
                        sum(int(mask[rows].sum()) for rows in mini_batch)
                    )
                    num_tokens = max(num_tokens, 1.0)
                    for rows in mini_batch:
                        input_ids, on, places = common.pack(rollout, rows)
                        logprobs, _ = policy.completion_logprobs(input_ids, on, config.temperature)
                        loss, log_ratio, clipped = policy_loss(
                            logprobs.gather(1, places), old_logprobs[rows], token_advantages[rows], mask[rows],
                            config.cliprange,
                        )  # fmt: skip
                        (
                            loss * common.world_size() / num_tokens
                        ).backward()  # FSDP averages over processes: now a sum
                        new_values = (
                            critic(input_ids=input_ids).logits.squeeze(-1).gather(1, places - 1)
                        )
                        v_loss = value_loss(
                            new_values,
                            values[rows],
                            returns[rows],
                            mask[rows],
                            config.cliprange_value,
                        )
                        (v_loss * common.world_size() / num_tokens).backward()
                        approximate_kl = (log_ratio.exp() - 1 - log_ratio).sum()  # Schulman's k3
                        ratio = (log_ratio.exp() * mask[rows]).sum()
                        sums += torch.tensor(
                            [loss.item(), v_loss.item(), approximate_kl, clipped.sum(), ratio]
                        )
                    grad_norm = common.clip_gradients(policy, config.max_grad_norm)
                    common.clip_gradients(critic, config.max_grad_norm)
                    for name in ("", "value_model"):
                        optimizers[name].step()
                        optimizers[name].zero_grad()

            # Let the PRM follow the policy.
            cost, prm_loss = Counter(executions=online.num_executions(handles)), None
            if config.prm_refresh:
                rows = zip(row_tasks, rollout.completions, rollout.texts, verdicts, strict=True)
                window += [{"task": task, "ids": ids, "text": text, "passed": verdict["status"] == "passed"}
                           for task, ids, text, verdict in rows if verdict["status"] != "harness_error"]  # fmt: skip
                window = window[-config.prm_refresh_window :]
                if window and (step + 1) % config.prm_refresh == 0:
                    prm_loss, cost = online.refresh(
                        prms[0],
                        optimizers["prm"],
                        window,
                        policy,
                        tokenizer,
                        table,
                        runner,
                        cache,
                        step,
                        config,
                    )

            # Log and save.
            cut = sum(row[-1] not in eos_ids for row in rollout.completions)
            gap = ((rollout.logprobs - old_logprobs).abs() * mask).sum()
            comments = (ends & ~code & mask).sum()
            samples, tokens, passes, outcomes, reward, kl, entropy, score, lines, comments, cut, gap, *sums = common.all_sum(
                judged.sum(), mask.sum(), (passed & judged).sum(), (outcome * judged).sum(), (rewards * mask).sum(),
                log_ratio_to_reference.sum(), (entropies * mask).sum(), (process * ends * mask).sum(),
                (ends & mask).sum(), comments, cut, gap, *sums,
            )  # fmt: skip
            label_samples, label_programs = common.all_sum(cost["completions"], cost["executions"])
            spent.update(label_samples=int(label_samples), label_programs=int(label_programs))
            errors = config.num_prompts * config.num_generations - samples
            samples, tokens, lines = max(samples, 1), max(tokens, 1), max(lines, 1)
            updates = config.num_ppo_epochs * tokens
            metrics = {
                "step": step + 1,
                "episode": (step + 1) * config.num_prompts * config.num_generations,
                "reward": reward / samples,
                "rewards/tests/mean": passes / samples,
                "rewards/prm/mean": score / lines,
                "objective/kl": kl / samples,
                "objective/entropy": entropy / tokens,
                "loss/policy_avg": sums[0] / updates,
                "loss/value_avg": sums[1] / updates,
                "policy/approxkl_avg": sums[2] / updates,
                "policy/clipfrac_avg": sums[3] / updates,
                "val/ratio": sums[4] / updates,
                "critic/vf_explained_var": float(explained),
                "completions/mean_length": tokens / samples,
                "completions/mean_lines": lines / samples,
                "completions/comment_ratio": comments / lines,
                "completions/clipped_ratio": cut / (config.num_prompts * config.num_generations),
                "sampling/sampling_logp_difference/mean": gap / tokens,
                "harness_errors": errors,
                "grad_norm": grad_norm,
                "lr": lr,
                "step_time": time.perf_counter() - started,
            }
            if config.outcome_reward in ("fraction", "orm"):
                metrics[f"rewards/{config.outcome_reward}/mean"] = outcomes / samples
            if oracle or config.prm_refresh:
                metrics |= spent  # totals, to be seen beside "episode"
            if prm_loss is not None:
                metrics["loss/prm_avg"] = prm_loss
            prm_scores.append(score / lines)
            pass_rates.append(passes / samples)
            if common.rank() == 0:
                if prms and (step + 1) % 10 == 0 and is_over_optimised(prm_scores, pass_rates):
                    bar.write(
                        "warning: over the last 10 updates the PRM's score rose and the pass rate fell"
                    )
                common.append_jsonl(f"{config.output_dir}/metrics.jsonl", [metrics])
                rows = zip(
                    row_tasks,
                    rollout.texts,
                    verdicts,
                    rewards.sum(1).tolist(),
                    rollout.completions,
                    strict=True,
                )
                common.append_jsonl(f"{config.output_dir}/completions.jsonl", [
                    {"step": step + 1, "task_id": task["task_id"], "prompt": task["prompt"], "completion": completion,
                     "status": verdict["status"], "reward": reward}
                    | ({"completion_ids": ids} if config.prm_refresh else {})  # from which a resumed run goes on
                    for task, completion, verdict, reward, ids in rows
                ])  # fmt: skip
                bar.set_postfix(
                    passed=f"{passes / samples:.2f}",
                    reward=f"{reward / samples:.2f}",
                    refresh=False,
                )
                bar.update()
            if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
                common.save_checkpoint(
                    config.output_dir,
                    step + 1,
                    models,
                    optimizers,
                    tokenizer,
                    config.save_total_limit,
                )
        bar.close()
    if config.prm_refresh:
        common.save_model(prms[0], tokenizer, f"{config.output_dir}/prm")
    common.save_model(policy, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
