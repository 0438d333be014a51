"""How published harnesses ask for a program, where they stop, what they run: eval.py --protocol.

A protocol fixes the words, the strings that end a completion, and which part of the answer is the
program. Length, temperature, samples, --top_p and memory are flags of eval.py. What the harnesses
take, of which livecodebench and mbpp set no limit of memory:

evalplus        --max_completion_length 768 --temperature 0 --memory_mb 4096
                or --temperature 0.8 --top_p 0.95
bigcodebench    --max_completion_length 1280 --temperature 0 --memory_mb 30720
mbpp            --max_completion_length 512 --temperature 0
livecodebench   --max_completion_length 2000 --temperature 0.2 --top_p 0.95 --num_samples 10
"""

from collections.abc import Callable
from typing import NamedTuple

import common
from benchmarks.sanitize import sanitize
from common import InputError, PromptFormat


class Protocol(NamedTuple):
    """By default, a task is asked and its program is found as in the stages that train."""

    prompt_format: PromptFormat = PromptFormat()
    ask: Callable[[dict], str] | None = None  # words around a task's prompt; None: its prompt alone
    stops: tuple[str, ...] = ()  # a completion ends before the first of these strings
    tab: str = "\t"  # what a tab of the completion becomes
    # the program in a task's completion
    program_of: Callable[[dict, str], str] = common.extract_program

    def encode(self, tokenizer, task: dict) -> list[int]:
        """Token ids of a task's prompt."""
        if self.ask:
            text = self.ask(task)
            task = {"prompt": text, "prefix": text}  # to its last newline, in the plain format
        return common.encode_prompt(tokenizer, task, self.prompt_format)

    def solution(self, task: dict, opening: str, completion: str) -> str:
        """The program in a completion. opening: common.opening_of; a prefill is one too."""
        text = completion.replace("\t", self.tab)
        return self.program_of(task, (self.prompt_format.prefill or opening) + text)


# EvalPlus (Liu et al., 2023, arXiv 2305.01210), evalplus/provider/utility.py and hf.py. A model
# with a chat template is asked in a chat, any other model (and --prompt_format plain, evalplus'
# --force_base_prompt) goes on where the prompt ends. Of the answer runs what benchmarks/sanitize.py
# keeps.
EVALPLUS_STOPS = (
    "<|endoftext|>",
    "<|endofmask|>",
    "</s>",
    "\nif __name__",
    "\ndef main(",
    "\nprint(",
)
HUMANEVAL_STOPS = ("\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")
MBPP_PLUS_STOPS = ('\n"""', "\nassert")
EVALPLUS_ANSWER = """\
Below is a Python script with a self-contained function that solves the problem and passes \
corresponding tests:
```python
"""


def evalplus_question(task: dict) -> str:
    return (
        "Please provide a self-contained Python script that solves the following problem in a "
        f"markdown code block:\n```\n{task['prompt'].strip()}\n```\n"
    )


def bigcodebench_question(task: dict) -> str:
    """BigCodeBench (Zhuo et al., 2024, arXiv 2406.15877), bigcodebench/provider/utility.py: as
    EvalPlus, but the words of an instruct task stand in no fence."""
    if task.get("prefix"):
        return evalplus_question(task)
    return (
        "Please provide a self-contained Python script that solves the following problem in a "
        f"markdown code block:\n{task['prompt'].strip()}\n"
    )


def evalplus_completion(task: dict) -> str:
    return task["prompt"].strip() + "\n"


def evalplus_answer(task: dict, text: str) -> str:
    return sanitize(text.removeprefix(EVALPLUS_ANSWER), task.get("entry_point"))


def evalplus_whole(task: dict, text: str) -> str:
    return sanitize(evalplus_completion(task) + text, task.get("entry_point"))


# MBPP (Austin et al., 2021, arXiv 2108.07732, and google-research/mbpp/README.md): three examples,
# tasks 2, 3 and 4; all tests of a task are shown; a program ends at [DONE]. The prompts that
# make_tasks.py --source mbpp writes have these words already.
MBPP_EXAMPLES = """\
You are an expert Python programmer, and here is your task: Write a function to find the similar \
elements from the given two tuple lists. Your code should pass these tests:

assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)
assert similar_elements((1, 2, 3, 4),(5, 4, 3, 7)) == (3, 4)
assert similar_elements((11, 12, 14, 13),(17, 15, 14, 13)) == (13, 14)
[BEGIN]
def similar_elements(test_tup1, test_tup2):
  res = tuple(set(test_tup1) & set(test_tup2))
  return (res)
[DONE]

You are an expert Python programmer, and here is your task: Write a python function to identify \
non-prime numbers. Your code should pass these tests:

assert is_not_prime(2) == False
assert is_not_prime(10) == True
assert is_not_prime(35) == True
[BEGIN]
import math
def is_not_prime(n):
    result = False
    for i in range(2,int(math.sqrt(n)) + 1):
        if n % i == 0:
            result = True
    return result
[DONE]

You are an expert Python programmer, and here is your task: Write a function to find the largest \
integers from a given list of numbers using heap queue algorithm. Your code should pass these \
tests:

assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],3)==[85, 75, 65]
assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],2)==[85, 75]
assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],5)==[85, 75, 65, 58, 35]
[BEGIN]
import heapq as hq
def heap_queue_largest(nums,n):
  largest_nums = hq.nlargest(n, nums)
  return largest_nums
[DONE]

"""


def mbpp_question(task: dict) -> str:
    return f"{MBPP_EXAMPLES}{task['prompt'].strip()}\n[BEGIN]\n"


# LiveCodeBench (Jain et al., 2024, arXiv 2403.07974), lcb_runner/prompts/code_generation.py and
# lcb_runner/utils/extraction_utils.py: the dialogue of chat models. The program stands between the
# last two lines with a fence; fewer than two fences: there is no program.
LIVECODEBENCH_SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and "
    "will generate a correct Python program that matches the specification and passes all tests."
)


def livecodebench_question(task: dict) -> str:
    """`meta.starter_code` of a task is the beginning of its program, where there is one."""
    starter = task.get("meta", {}).get("starter_code")
    if starter:
        ask = (
            "You will use the following starter code to write the solution to the problem and "
            "enclose your code within delimiters."
        )
    else:
        ask = (
            "Read the inputs from stdin solve the problem and write the answer to stdout (do not "
            "directly test on the sample inputs). Enclose your code within delimiters as follows. "
            "Ensure that when the python program runs, it reads the inputs, runs the algorithm and "
            "writes output to STDOUT."
        )
    return (
        f"### Question:\n{task['prompt']}\n\n### Format: {ask}\n"
        f"```python\n{starter or '# YOUR CODE HERE'}\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )


def between_last_fences(task: dict, text: str) -> str:
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else ""


def choose(name: str, prompt_format: PromptFormat, tokenizer, tasks: list[dict]) -> Protocol:
    """The protocol of a name, in a chat or not; InputError where it does not have that form."""
    if name == "none":
        return Protocol(prompt_format)
    if name == "mbpp":
        if prompt_format.kind == "chat" or prompt_format.system_prompt:
            raise InputError("--protocol mbpp is a plain prompt, not a chat")
        form = PromptFormat("plain")
        return Protocol(form, mbpp_question, ("[DONE]",), program_of=lambda task, text: text)
    if name == "livecodebench":
        if prompt_format.kind == "plain":
            raise InputError("--protocol livecodebench is a chat, not a plain prompt")
        if not tokenizer.chat_template:
            raise InputError(
                "--protocol livecodebench is a chat, and "
                f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template"
            )
        form = PromptFormat("chat", prompt_format.system_prompt or LIVECODEBENCH_SYSTEM)
        return Protocol(form, livecodebench_question, ("###",), program_of=between_last_fences)
    if prompt_format.is_chat(tokenizer):
        form = prompt_format._replace(prefill=EVALPLUS_ANSWER)
        stops = (*EVALPLUS_STOPS, "\n```\n")
        question = bigcodebench_question if name == "bigcodebench" else evalplus_question
        return Protocol(form, question, stops, " " * 4, evalplus_answer)
    completes = any(task.get("prefix") for task in tasks)
    if name == "bigcodebench" and not completes:
        raise InputError("--protocol bigcodebench asks instruct tasks in a chat, not plainly")
    stops = EVALPLUS_STOPS + (HUMANEVAL_STOPS if completes else MBPP_PLUS_STOPS)
    return Protocol(PromptFormat("plain"), evalplus_completion, stops, " " * 4, evalplus_whole)


def check(config, tasks: list[dict]) -> None:
    """Raises InputError for tasks that the policy of eval.py's flags could not be asked: a model
    without the protocol's form, or a prompt and a completion of more tokens than it reads."""
    path = config.model_name_or_path
    common.check_model("policy", path)
    tokenizer = common.load_tokenizer(path)
    protocol = choose(config.protocol, common.prompt_format_of(config), tokenizer, tasks)
    protocol.encode(tokenizer, tasks[0])  # a chat template may refuse the turns
    common.check_model("policy", path, config.max_completion_length, tasks, encode=protocol.encode)
