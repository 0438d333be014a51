"""The path of reproduce/gsm8k.sh in miniature: demonstrations that reason, a reward model for
reasoning, and final answers that are judged without being run."""

import json
from pathlib import Path

import pytest

import common
import eval as evaluation
import grpo
import sft
import train_prm
from benchmarks import gsm8k, micro
from prm_data import contrast

ROWS = [  # in the form of the published file, with its marks for a calculator
    {
        "question": "Ann has 3 apples and buys 4. How many?",
        "answer": "She has 3+4=<<3+4=7>>7 apples.\n#### 7",
    },
    {
        "question": "Bob sells 5 cards of 2 dollars. How much?",
        "answer": "He gets 5*2=$<<5*2=10>>10.\nThat is all.\n#### 10",
    },
    {
        "question": "Cid has 900 pens and 400 more. How many?",
        "answer": "He has 900+400=<<900+400=1300>>1300.\n#### 1,300",
    },
    {
        "question": "Dan reads 8 pages of 9. How many are left?",
        "answer": "He has 9-8=<<9-8=1>>1 page left.\n#### 1",
    },
]


def test_a_tiny_model_learns_the_form_and_its_answers_are_judged(tmp_path):
    common.write_jsonl(tmp_path / "published" / "train.jsonl", ROWS)
    folder = {name: str(tmp_path / name) for name in ("tasks", "sft", "rm", "grpo", "eval")}
    tasks, pairs = f"{folder['tasks']}/train.jsonl", str(tmp_path / "pairs.jsonl")
    gsm8k.main(
        gsm8k.Config(folder["tasks"], str(tmp_path / "published" / "train.jsonl"), think=True)
    )
    rows = common.read_jsonl(tasks, common.PROMPT_FIELDS)
    assert (
        rows[1]["completion"]
        == "<think>\nHe gets 5*2=$10.\nThat is all.\n</think>\n<answer>\n#### 10\n</answer>\n"
    )
    assert (
        rows[1]["meta"]["plan"] == ["He gets 5*2=$10.", "That is all."]
        and "<think>" in rows[1]["prompt"]
    )

    sft.main(
        sft.Config(
            tasks,
            folder["sft"],
            vocab_size=400,
            hidden_size=64,
            num_hidden_layers=1,
            max_steps=60,
            train_batch_size=4,
            learning_rate=1e-2,
            warmup_steps=5,
        )
    )
    contrast.main(contrast.Config(tasks, pairs, dimensions=["factual"]))
    assert {row["meta"]["operator"] for row in common.read_jsonl(pairs, {})} <= {
        "wrong_number",
        "wrong_operation",
    }
    train_prm.main(
        train_prm.Config(
            pairs,
            folder["rm"],
            folder["sft"],
            "ranking",
            max_steps=1,
            train_batch_size=4,
            eval_fraction=0.5,
            seed=1,
        )
    )
    grpo.main(
        grpo.Config(
            tasks,
            folder["sft"],
            folder["grpo"],
            folder["rm"],
            max_steps=1,
            num_prompts=4,
            num_generations=4,
            num_mini_batches=1,
            max_completion_length=60,
            learning_rate=1e-4,
        )
    )
    log = json.loads(Path(folder["grpo"], "metrics.jsonl").read_text())
    assert (
        log["rewards/format/mean"] > 0.7
        and log["rewards/tests/mean"] > 0.5
        and log["harness_errors"] == 0
    )
    paid = log["rewards/format/mean"] + log["rewards/tests/mean"]
    assert log["reward"] > paid + 0.2  # and R_proc, near 0.5, where the answer is right
    evaluation.main(
        evaluation.Config(
            tasks, folder["eval"], folder["grpo"], temperature=0.0, max_completion_length=60
        )
    )
    report = json.loads(Path(folder["eval"], "report.json").read_text())
    assert report["pass@1"] == 1.0
    samples = [
        json.loads(line) for line in Path(folder["eval"], "verdicts.jsonl").read_text().splitlines()
    ]
    assert [row["solution"] for row in samples] == [
        "#### 7\n",
        "#### 10\n",
        "#### 1,300\n",
        "#### 1\n",
    ]


def test_one_step_of_each_stage_runs_on_the_published_file(tmp_path, benchmark_data):
    gsm8k.main(
        gsm8k.Config(str(tmp_path), str(benchmark_data / "gsm8k" / "test.jsonl"), think=True)
    )
    tasks, policy = str(tmp_path / "few.jsonl"), str(tmp_path / "sft")
    common.write_jsonl(tasks, common.read_jsonl(tmp_path / "test.jsonl", {})[:20])
    sft.main(
        sft.Config(
            tasks,
            policy,
            vocab_size=400,
            hidden_size=32,
            num_hidden_layers=1,
            max_steps=2,
            train_batch_size=4,
        )
    )
    grpo.main(
        grpo.Config(
            tasks,
            policy,
            str(tmp_path / "grpo"),
            max_steps=1,
            num_prompts=2,
            num_generations=4,
            max_completion_length=20,
        )
    )
    rows = [
        json.loads(line)
        for line in (tmp_path / "grpo" / "completions.jsonl").read_text().splitlines()
    ]
    assert [row["status"] for row in rows] == ["failed"] * 8 and {
        row["reward"] for row in rows
    } == {0.0}


def test_thinking_is_asked_of_public_benchmarks_alone():
    with pytest.raises(common.InputError, match="unknown flag --think"):
        common.parse_flags(micro.Config, ["--output_dir", "unused", "--think", "true"])
