"""A language model as the teacher for reasonings, in place of the rules of reasoning_rules.py.

ReCode does not publish its prompts; those below stand in. One call a dimension and version.
"""

from collections.abc import Sequence

import common
from teachers.chat import Teacher

PROMPT = """Here is a programming problem and a reasoning that leads to a solution.

<problem>
{problem}
</problem>

<reasoning>
{reasoning}
</reasoning>

{order}

Keep the style, the structure, the number of lines, and the length within 15 %. Write only the \
rewritten reasoning,
with no remark before or after it, and no tags.
"""
OPTIMISE = {
    "factual": "Rewrite the reasoning so that every statement about the problem, its constraints, "
    "the language and its library is true. Leave what is true as it is.",
    "rigour": "Rewrite the reasoning so that every conclusion follows from what stands before it: "
    "no step is skipped, edge cases are treated, and the cost of the algorithm is right. Leave "
    "what is sound as it is.",
    "coherence": "Rewrite the reasoning so that its steps stand in the order in which they are "
    "needed, each connected to the one before it, with no repetition and nothing that does not "
    "serve the solution.",
}
DEGRADE = {
    "factual": "Rewrite the reasoning so that one statement about the problem, its constraints, "
    "the language or its library is subtly false. Do not say so. Leave the rest as it is.",
    "rigour": "Rewrite the reasoning so that one conclusion does not follow: skip a needed step, "
    "leave out an edge case, or contradict an earlier step. Do not say so. Leave the rest as it "
    "is.",
    "coherence": "Rewrite the reasoning so that it is less coherent: repeat a step, put one where "
    "it does not belong, or replace one by something that does not serve the solution. Do not say "
    "so. Leave the rest as it is.",
}


def rewrite(
    teacher: Teacher, bases: list[tuple[dict, str]], dimensions: Sequence[str], num_degraded: int
) -> list[dict]:
    """As reasoning_rules.rewrite; what the teacher does not answer is missing."""
    prompts = [
        PROMPT.format(problem=task["prompt"].strip(), reasoning=base.strip(), order=order)
        for task, base in bases
        for dimension in dimensions
        for order in [OPTIMISE[dimension], *[DEGRADE[dimension]] * num_degraded]
    ]
    texts = teacher.ask(prompts, "rewritten", whole=True)
    answers = iter([read_answer(text or "") for text in texts])
    versions = []
    for _ in bases:
        versions.append({})
        for dimension in dimensions:
            better, *worse = [next(answers) for _ in range(1 + num_degraded)]
            worse = [("chat", text) for text in dict.fromkeys(worse) if text]
            versions[-1][dimension] = better, worse
    return versions


def read_answer(answer: str) -> str | None:
    """The rewritten reasoning of an answer: what comes after the teacher's own (`</think>`); None
    for nothing."""
    text = answer.rpartition("</think>")[2]
    return common.framed(text) if text.strip() else None
