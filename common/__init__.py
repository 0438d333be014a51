"""Plumbing that every stage shares, in rooms; this page is their index. No algorithm lives here.

A stage reads:

    def main(config): ...
    if __name__ == "__main__":
        common.run(main, Config)
"""

# flags: a dataclass from the command line, its annotations, and the error that a user sees.
from common.flags import (
    GroupSize,
    InputError,
    InputFile,
    NonNegativeFloat,
    NonNegativeInt,
    OutputDir,
    OutputFile,
    PositiveFloat,
    PositiveInt,
    PositiveUnitFloat,
    UnitFloat,
    input_digests,
    parse_flags,
)

# files: JSONL, read whole and checked, written whole or not at all.
from common.files import (
    append_jsonl,
    cut_torn_line,
    json_line,
    lock,
    null_for_nan,
    read_jsonl,
    whole_lines,
    whole_rows,
    write_jsonl,
    write_text,
)

# seeds: stateless randomness.
from common.seeds import draw, held_out_tasks, seed_of, shuffled

# distributed: ranks, sums over ranks.
from common.distributed import (
    all_max,
    all_std,
    all_sum,
    bf16,
    check_batch,
    device,
    end_distributed,
    gather_rows,
    my_share,
    rank,
    wait_for_all,
    world_size,
)

# texts: prompts, completions, the programs and reasoning in them.
from common.texts import (
    AUTO_FORMAT,
    PROMPT_FIELDS,
    PromptFormat,
    after_opening,
    cut_at,
    decode,
    encode_completion,
    encode_prompt,
    encode_prompt_of,
    encode_text,
    framed,
    opening_of,
    prompt_format_of,
    reasoning_of,
    unix,
)

# programs: the program in a completion.
from common.programs import extract_program, standalone

# pages: programs as a page of HTML.
from common.pages import program_page

# models: policies and tokenizers; weights whole or refused (checkpoints.py, tensors.py).
from common.models import (
    eos_ids,
    line_table,
    load_policy,
    load_tokenizer,
    new_model,
    new_tokenizer,
    shares_prompts,
)

# reward models and critics: a backbone and a linear head.
from common.reward_models import OUTCOME_REWARDS, head_of, load_critic, load_scorer

# sharding: models on the device, in bfloat16 or float32, whole or over ranks; their optimiser.
from common.sharding import (
    adamw,
    lr_at,
    replicate,
    reshard,
    set_lr,
    shard,
    take_step,
    unshard,
)

# checks: what can be told of models and tasks before a run.
from common.checks import check_length, check_model, check_packages, position_limit

# batches: padding, rollouts, verdicts, mini-batches.
from common.batches import (
    Rollout,
    Verdicts,
    batches_by_length,
    check_sampling,
    execute,
    limits_of,
    micro_batches,
    mini_batches,
    pad,
    pad_pairs,
    pad_rollout,
    roll_out,
    sample,
    verdicts_of,
)

# examples: the labelled texts that reward models learn from.
from common.examples import (
    PAIR_FIELDS,
    PRM_FIELDS,
    check_classification_row,
    check_lines_have_tokens,
    check_prm_row,
    cut_changed_programs,
    encode_examples,
    example_length,
    fence_labelled_lines,
    fenced,
    read_examples,
    read_labelled_lines,
    read_outcomes,
    read_pairs,
)

# lines: which lines of a completion are the program's, and their scores at tokens.
from common.lines import (
    line_ends,
    lines_of,
    of_program_lines,
    program_lines,
    put_at_line_ends,
    scored_lines,
)

# scoring: log-probs of a policy, values of a critic, scores of reward models.
from common.scoring import (
    RewardModel,
    check_line_tokens,
    fit_critic,
    fit_returns,
    logits_at,
    logprobs_of,
    load_reasoning_rm,
    load_reward_model,
    rescale_critic,
    score_critic,
    score_lines,
    score_outcomes,
    score_policy,
    score_reasoning,
    score_text_lines,
    score_texts,
    score_tokens,
    scores_of,
    scores_of_logits,
    values_of,
)

# reports: the quality of a reward model's scores.
from common.reports import (
    auc,
    binary_report,
    calibration,
    format_interval,
    format_number,
    format_numbers,
    histogram,
    is_over_optimised,
    line_report,
    outcome_report,
    pair_report,
    print_report,
    ratio,
)

# pass rates: pass@k, intervals, differences between policies.
from common.pass_rates import (
    BOOTSTRAP_REPLICATES,
    bootstrap,
    paired_difference,
    pass_at_k,
    pass_rate,
    policy_report,
    print_policy_report,
    read_arms,
    student_quantile,
)

# preferences: accuracy on pairs of texts, and what a model reaches that never sees the prompt.
from common.preferences import blind_preferences, preference_report

# ranking: best of n.
from common.ranking import (
    agreement_of,
    agreement_scores,
    best_of_n_report,
    output_task,
    outputs_of,
    reduce_lines,
)

# verdicts: samples and their verdicts, kept as they come.
from common.verdicts import (
    VerdictLog,
    check_known_task,
    check_sample,
    judged_text,
    read_samples,
    unknown_samples,
)

# runs: a stage's entry point, its folder, its log, its checkpoints.
from common.runs import (
    MAX_UNJUDGED,
    begin_run,
    chosen,
    load_optimizers,
    log,
    log_row,
    logged_metrics,
    open_run,
    progress_bar,
    run,
    run_chosen,
    sampling_progress,
    save_checkpoint,
    save_model,
)
