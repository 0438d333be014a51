"""Step preferences by tree search: pairs.jsonl for dpo.py from trees over lines.

Xie et al. (2024, arXiv 2405.00451): Monte Carlo tree search with the policy, and preferences
between the best and the worst step after the same steps, from which DPO learns; then again with the
new policy. Here a step is a line. A simulation goes down the tree by UCT,

    Q(line) + exploration * sqrt(ln(visits of the prefix) / visits of the line),

to a prefix without children, samples --num_children completions there, and adds their first lines.
The value of a new line is whether its completion passes the tests (--value tests), or the PRM's
score of the line (--value prm). Values go up to the root; Q is their mean. The paper's value also
has the policy's own judgement of a step, its UCT a prior, its loss labels that are smoothed by
visits; these are left out. A row's `meta.samples` is the most completions that the tree may have
cost: a simulation that ends at a program's last line samples none. Where no two lines of one prefix
have different values there are no pairs, and the file is empty.

    python studies/mcts.py --tasks train.jsonl --model_name_or_path runs/sft \\
        --output_file pairs.jsonl
    python dpo.py --data pairs.jsonl --model_name_or_path runs/sft --output_dir runs/dpo
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # where the modules of the stages are

import common  # noqa: E402
import sandbox  # noqa: E402
from common import (  # noqa: E402
    InputError,
    InputFile,
    NonNegativeFloat,
    NonNegativeInt,
    OutputFile,
    PositiveFloat,
    PositiveInt,
)
from prm_data import rows  # noqa: E402


@dataclass
class Config:
    tasks: InputFile  # tasks.jsonl
    model_name_or_path: str  # policy whose lines are compared
    output_file: OutputFile  # pairs.jsonl
    value: Literal["tests", "prm"] = "tests"  # of a new line: its completion's tests; --prm's score
    prm: str | None = None  # line-level reward model
    num_tasks: PositiveInt = 60  # trees
    first_task: NonNegativeInt = 0  # where in the shuffled tasks they begin: another round, others
    num_simulations: PositiveInt = 4  # expansions of a tree
    num_children: PositiveInt = 4  # completions an expansion
    exploration: NonNegativeFloat = 1.0
    min_margin: NonNegativeFloat = 0.0  # pairs whose Q are further apart than this
    max_completion_length: PositiveInt = 128  # tokens
    temperature: PositiveFloat = 1.0
    prompt_format: Literal["auto", "chat", "plain"] = "auto"  # auto: chat template, if there is one
    system_prompt: str | None = None  # chat: the turn before the user's
    rollout_batch_size: PositiveInt = 512  # samples decoded at a time: bounds the KV cache
    per_device_train_batch_size: PositiveInt = 64  # texts a forward pass of the PRM
    bf16: bool | None = None  # models in bfloat16; default: on CUDA
    sandbox_workers: PositiveInt = 1  # processes that run programs
    sandbox_timeout: PositiveFloat = 3.0  # CPU seconds a program, where the task sets none
    packages: list[str] = field(default_factory=list)  # that programs may import, as numpy
    seed: int = 0


@dataclass
class Node:
    """A prefix of a program: its lines, and the lines that were sampled after it."""

    prefix: str
    visits: int = 0
    total: float = 0.0  # of the values below it
    children: dict[str, "Node"] = field(default_factory=dict)  # by their line

    @property
    def q(self) -> float:
        return self.total / max(self.visits, 1)


class Tree(NamedTuple):
    task: dict
    prompt: list[int]  # token ids
    opening: str  # what the prompt opens and the completions close: "<think>" (texts.opening_of)
    root: Node


def is_end(node: Node) -> bool:
    """Whether the completion ended with this line: it has no newline."""
    return bool(node.prefix) and not node.prefix.endswith("\n")


def path_to_leaf(root: Node, exploration: float) -> list[Node]:
    """The nodes from the root to one without children, each child the best by UCT."""
    path = [root]
    while path[-1].children:
        node = path[-1]
        spread = math.log(max(node.visits, 1))
        path.append(
            max(
                node.children.values(),
                key=lambda c: c.q + exploration * math.sqrt(spread / max(c.visits, 1)),
            )
        )
    return path


def add(path: list[Node], line: str, value: float) -> None:
    """A sampled line after the last node of a path, with its value, which goes up to the root. An
    empty line: the program ends with that node, which counts once more."""
    child = [path[-1].children.setdefault(line, Node(path[-1].prefix + line))] if line else []
    for node in [*path, *child]:
        node.visits += 1
        node.total += value


def pairs_of(root: Node, min_margin: float) -> Iterator[tuple[Node, Node]]:
    """The best and the worst line after each prefix, where their Q differ enough."""
    left = [root]
    while left:
        node = left.pop()
        left += node.children.values()
        ranked = sorted(node.children.values(), key=lambda child: child.q)
        if len(ranked) > 1 and ranked[-1].q - ranked[0].q > min_margin:
            yield ranked[-1], ranked[0]


def values_of(prefixes, rollout, runner, prm, config) -> list[float | None]:
    """Value of the first line of each completion; None without one, or without a verdict. The
    rollout's texts are whole: each begins with its prefix."""
    if config.value == "tests":
        verdicts = common.verdicts_of(common.execute(runner, rollout))
        known = zip(verdicts.passed.tolist(), verdicts.judged.tolist(), strict=True)
        return [float(passed) if judged else None for passed, judged in known]
    model, tokenizer = prm
    size = config.per_device_train_batch_size
    scores = common.score_text_lines(model, tokenizer, rollout.tasks, rollout.texts, size)
    found = []
    for row, prefix in zip(scores, prefixes, strict=True):
        number = len(common.lines_of(prefix))
        found.append(row[number] if number < len(row) and row[number] == row[number] else None)
    return found


def grow(trees: list[Tree], policy, tokenizer, runner, prm, config: Config) -> None:
    """config.num_simulations expansions of each tree, all trees at once."""
    for step in range(config.num_simulations):
        paths = [(tree, path_to_leaf(tree.root, config.exploration)) for tree in trees]
        for _, path in paths:
            if is_end(path[-1]):  # nothing to add: what is known of it counts once more
                for node in path:
                    node.total, node.visits = node.total + path[-1].q, node.visits + 1
        paths = [(tree, path) for tree, path in paths if not is_end(path[-1])]
        if not paths:
            continue
        prompts = [
            tree.prompt + common.encode_text(tokenizer, path[-1].prefix) for tree, path in paths
        ]
        longest = max(map(len, prompts)) + config.max_completion_length
        common.check_length(config.model_name_or_path, policy, longest)
        repeated = [pair for pair in paths for _ in range(config.num_children)]
        rollout = common.roll_out(
            policy,
            tokenizer,
            prompts,
            config.num_children,
            config.max_completion_length,
            config.temperature,
            [
                common.seed_of(config.seed, "mcts", tree.task["task_id"], step, i)
                for i, (tree, _) in enumerate(repeated)
            ],
            rollout_batch_size=config.rollout_batch_size,
        )
        prefixes = [path[-1].prefix for _, path in repeated]
        whole = rollout._replace(
            texts=[prefix + text for prefix, text in zip(prefixes, rollout.texts, strict=True)],
            tasks=tuple(tree.task for tree, _ in repeated),
            openings=tuple(tree.opening for tree, _ in repeated),
        )
        values = values_of(prefixes, whole, runner, prm, config)
        for (_, path), text, value in zip(repeated, rollout.texts, values, strict=True):
            if value is not None:
                add(path, common.lines_of(text)[0] if text else "", value)


def main(config: Config) -> None:
    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
    common.check_packages(config, tasks)
    if (config.value == "prm") != (config.prm is not None):
        raise InputError("--value prm and --prm go together")
    if common.world_size() > 1:
        raise InputError("studies/mcts.py runs in one process")
    common.check_model("policy", config.model_name_or_path, config.max_completion_length, tasks)
    common.check_model("prm", config.prm, config.max_completion_length, tasks)
    if rows.is_complete(config):
        return
    tokenizer = common.load_tokenizer(config.model_name_or_path)
    policy = common.replicate(common.load_policy(config.model_name_or_path, config).eval(), config)
    prm = None
    if config.prm is not None:
        model = common.shard(common.load_scorer(config.prm, run_config=config).eval(), config)
        prm = (model, common.load_tokenizer(config.prm))
    order = common.shuffled(len(tasks), config.seed, "mcts tasks")
    chosen = [order[(config.first_task + i) % len(order)] for i in range(config.num_tasks)]
    prompt_format, trees = common.prompt_format_of(config), []
    for i in dict.fromkeys(chosen):
        prompt = common.encode_prompt(tokenizer, tasks[i], prompt_format)
        trees.append(Tree(tasks[i], prompt, common.opening_of(tokenizer, prompt), Node("")))
    workers, timeout = config.sandbox_workers, config.sandbox_timeout
    with sandbox.Sandbox(workers, timeout=timeout, packages=config.packages) as runner:
        grow(trees, policy, tokenizer, runner, prm, config)
    pairs = []
    for task, _, opening, root in trees:
        for best, worst in pairs_of(root, config.min_margin):
            texts = opening + best.prefix, opening + worst.prefix
            row = rows.pair_row(task, *texts, "mcts") | {"complete": False}
            samples = config.num_simulations * config.num_children
            meta = {"q_chosen": best.q, "q_rejected": worst.q, "samples": samples}
            pairs.append(row | {"meta": meta} | rows.prefix_of(task))
    print(f"{len(pairs)} pairs from {len(trees)} trees")
    rows.write_result(config, pairs)


if __name__ == "__main__":
    common.run(main, Config)
