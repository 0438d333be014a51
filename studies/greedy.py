"""The greedy program of each prompt, the baseline of RLTF and CodeRL, for rltf.diff and
coderl.diff."""

from concurrent.futures import Future

import common


def execute(policy, tokenizer, runner, rollout: common.Rollout, config) -> list[Future]:
    """Starts, for each of the N completions, the program that the policy writes greedily for the
    same prompt: one sample more a prompt. `common.verdicts_of` waits for the verdicts."""
    size = config.num_generations
    prompts = rollout.prompts[::size]
    seeds = [0] * len(prompts)  # nothing is drawn
    length, size_at_once = config.max_completion_length, config.rollout_batch_size
    greedy = common.roll_out(
        policy, tokenizer, prompts, 1, length, 0.0, seeds, rollout_batch_size=size_at_once
    )
    executions = common.execute(runner, greedy._replace(tasks=rollout.tasks[::size]))
    return [execution for execution in executions for _ in range(size)]
