"""The stages on a real architecture, Qwen2 with random weights: a chat template, several end ids, a
byte-level BPE whose newlines merge with the indentation after them; prompts of 300 tokens, answers
of 200."""

import argparse
import inspect
import json
import textwrap
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import common
import grpo
import ppo
import train_prm
from kernels import masking

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """Folder with a policy and its tokenizer, a reward model beside it, and tasks."""
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern=argparse_pattern(), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [inspect.getsource(module) for module in (argparse, json.decoder, inspect, textwrap)]
    tokenizer.train_from_iterator(corpus, trainer)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder / "policy")
    config = transformers.Qwen2Config(
        vocab_size=2048,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=wrapped.eos_token_id,
    )
    torch.manual_seed(0)
    policy = transformers.Qwen2ForCausalLM(config)
    policy.generation_config.eos_token_id = [wrapped.eos_token_id, wrapped.pad_token_id]
    policy.save_pretrained(folder / "policy")
    config.num_labels, config.classifier_dropout = 1, 0.0
    transformers.Qwen2ForTokenClassification(config).save_pretrained(folder / "prm")
    wrapped.save_pretrained(folder / "prm")
    text = inspect.getsource(argparse.HelpFormatter)
    prompt = wrapped.decode(wrapped(text).input_ids[:295])
    tasks = [
        {
            "task_id": f"t{i}",
            "prompt": f"{i} {prompt}",
            "entry_point": "f",
            "solution": None,
            "setup": "",
            "style": "call",
            "tests": [{"args": [1], "output": 2}],
            "timeout": None,
            "meta": {},
        }
        for i in range(2)
    ]
    common.write_jsonl(folder / "tasks.jsonl", tasks)
    return folder


def argparse_pattern():
    """Newlines take the spaces after them along, as `\\s+` does in GPT-2's and Qwen's patterns."""
    from tokenizers import Regex

    return Regex(r"\n+[ ]*| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+")


ANSWER = textwrap.dedent(inspect.getsource(textwrap.TextWrapper._wrap_chunks))


def test_rewards_fall_on_the_token_whose_text_ends_the_line(qwen):
    tokenizer = common.load_tokenizer(qwen / "policy")
    ids = [*tokenizer(ANSWER).input_ids[:200], tokenizer.eos_token_id]
    texts = [tokenizer.decode([i]) for i in ids]
    assert sum("\n " in text for text in texts) > 10  # newlines do merge with the indentation
    rows = [ids, ids[:50]]  # one ended by EOS, one cut off in the middle of a line
    mask = common.pad([[1] * len(row) for row in rows]).bool()
    table = masking.line_table(tokenizer)
    ends = masking.line_ends(common.pad(rows, tokenizer.eos_token_id), mask, table)
    process = torch.ones(ends.shape)
    config = ppo.Config("", "", "", process_norm="none", lambda_fail=1.0, lambda_pass=1.0)
    passed = torch.tensor([True, False])
    rewards = ppo.compose_rewards(passed.float(), passed, process, ends, ends, mask, config)
    for row, reward in zip(rows, rewards, strict=True):
        text = tokenizer.decode([i for i in row if i != tokenizer.eos_token_id])
        paid = [t for t in range(len(row)) if reward[t] > 0 and row[t] != tokenizer.eos_token_id]
        assert len(paid) < len(text.splitlines()) or paid[-1] == len(row) - 1 - (
            row[-1] == tokenizer.eos_token_id
        )
        for t in range(len(row)):
            newline = "\n" in tokenizer.decode([row[t]])
            assert (t in paid) == (
                newline or t == len([i for i in row if i != tokenizer.eos_token_id]) - 1
            ), t
    assert (
        rewards[0, len(ids) - 1] == 1.0 and ids[-1] == tokenizer.eos_token_id
    )  # the outcome, at the EOS itself
    assert (rewards[1, 50:] == 0).all()


def test_prm_labels_land_on_the_same_tokens_as_rewards(qwen):
    tokenizer = common.load_tokenizer(qwen / "policy")
    table = masking.line_table(tokenizer)
    lines = ANSWER.splitlines(keepends=True)[:40]
    ids = tokenizer("".join(lines)).input_ids
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    positions = masking.line_end_positions(torch.tensor([ids]), mask, table, len(lines))[0].tolist()
    done, token = "", -1
    for line, position in zip(lines, positions, strict=True):
        done += line
        assert tokenizer.decode(ids[: position + 1]).startswith(done) and not tokenizer.decode(
            ids[:position]
        ).startswith(done)
        assert position >= token
        token = position
    ends = masking.line_ends(torch.tensor([ids]), mask, table)[0].nonzero().squeeze(1).tolist()
    assert ends == sorted(set(positions))


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_the_same_flags_train_it(qwen, name):
    stage = {"ppo": ppo, "grpo": grpo}[name]
    flags = (
        {"prm": str(qwen / "prm"), "value_init": "prm", "outcome_reward": "none"}
        if name == "ppo"
        else {}
    )
    config = stage.Config(
        tasks=str(qwen / "tasks.jsonl"),
        model_name_or_path=str(qwen / "policy"),
        output_dir=str(qwen / name),
        max_steps=1,
        num_prompts=2,
        num_generations=2,
        num_mini_batches=1,
        max_completion_length=200,
        **flags,
    )
    stage.main(config)
    (row,) = [json.loads(line) for line in open(qwen / name / "metrics.jsonl")]
    assert row["val/ratio"] == pytest.approx(1, abs=1e-5) and row["completions/mean_length"] > 100
    assert row["sampling/sampling_logp_difference/mean"] < 1e-5
    samples = [json.loads(line) for line in open(qwen / name / "completions.jsonl")]
    assert len(samples) == 4 and not any("<|im_" in sample["completion"] for sample in samples)
    if name == "ppo":
        assert row["completions/mean_lines"] >= 1 and row["grad_norm"] > 0
    trained = transformers.AutoModelForCausalLM.from_pretrained(qwen / name)
    assert isinstance(trained, transformers.Qwen2ForCausalLM)
    assert trained.lm_head.weight.data_ptr() == trained.model.embed_tokens.weight.data_ptr()


def test_a_prompt_of_300_tokens_goes_through_the_chat_template(qwen):
    tokenizer = common.load_tokenizer(qwen / "policy")
    task = json.loads(Path(qwen / "tasks.jsonl").read_text().splitlines()[0])
    ids = common.encode_prompt(tokenizer, task)
    assert 295 < len(ids) < 320 and tokenizer.decode(ids).endswith(
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert common.eos_ids(common.load_policy(qwen / "policy"), tokenizer) == [0, 2]


def test_train_prm_runs_on_it(qwen):
    lines = ["def f(x):\n", "    # one more\n", "\n", "    return x + 1"]
    rows = [
        {
            "task_id": f"t{i}",
            "prompt": "add one",
            "completions": lines,
            "labels": [1, None, None, -1],
        }
        for i in range(12)
    ]
    common.write_jsonl(qwen / "prm.jsonl", rows)
    config = train_prm.Config(
        str(qwen / "prm.jsonl"),
        str(qwen / "trained"),
        str(qwen / "policy"),
        max_steps=12,
        train_batch_size=8,
        eval_fraction=0.3,
        warmup_steps=1,
    )
    train_prm.main(config)
    report = json.loads((qwen / "trained" / "report.json").read_text())
    held_out = sum(common.seed_of(0, "held-out", f"t{i}") % 10_000 < 3_000 for i in range(12))
    assert report["eval_auc"] == 1.0 and report["eval_lines"] == 2 * held_out
