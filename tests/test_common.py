"""Flags, JSONL, seeds, prompts, run folders."""

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
import transformers

import common
from common import InputError


@dataclass
class Config:
    tasks: str
    learning_rate: float = 1e-3
    max_steps: int = 10
    whiten: bool = True
    mode: Literal["a", "b"] = "a"
    prm: str | None = None
    k: list[int] = field(default_factory=lambda: [1])


def test_flags_get_the_types_of_their_annotations():
    words = [
        "--tasks",
        "t",
        "--learning_rate=2e-4",
        "--max_steps",
        "5",
        "--whiten",
        "false",
        "--mode",
        "b",
    ]
    words += ["--prm", "runs/prm", "--k", "1", "10"]
    assert common.parse_flags(Config, words) == Config(
        "t", 2e-4, 5, False, "b", "runs/prm", [1, 10]
    )
    assert common.parse_flags(Config, ["--tasks", "t", "--whiten", "--prm", "none"]) == Config("t")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--tasks t --learning_rat 1",
            "unknown flag --learning_rat; did you mean --learning_rate?",
        ),
        ("--tasks t --max_steps 1.5", "--max_steps must be of type int, got '1.5'"),
        ("--tasks t --whiten maybe", "--whiten must be true or false, got 'maybe'"),
        ("--tasks t --mode c", "--mode must be one of a, b, got 'c'"),
        ("--tasks t --max_steps", "--max_steps takes one value, got 0"),
        ("--tasks t --tasks u", "--tasks is given twice"),
        ("--max_steps 3", "--tasks is required"),
        ("tasks", "expected a flag that starts with --, got 'tasks'"),
    ],
)
def test_a_bad_flag_is_one_clear_line(words, message):
    with pytest.raises(InputError, match="^" + message.replace("?", r"\?")) as error:
        common.parse_flags(Config, words.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"task_id": "a", "n": 1}\n{"task_id": \n', r":2: not a JSON object"),
        ('{"task_id": "a", "n": 1}\n[1]\n', r":2: not a JSON object but list"),
        ('{"task_id": "a", "n": 1}\n\n', r":2: not a JSON object"),
        ('{"task_id": "a"}\n', r":1: field 'n' is missing"),
        ('{"task_id": 3, "n": 1}\n', r":1: field 'task_id' must be str, got 3"),
        ('{"task_id": "a", "n": true}\n', r":1: field 'n' must be int, got true"),
        ('{"task_id": "a", "n": -1}\n', r":1: field 'n' is negative"),
        ("", r": no rows"),
    ],
)
def test_a_bad_record_is_named_by_file_line_and_field(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)

    def check(row):
        if row["n"] < 0:
            raise ValueError("field 'n' is negative")

    with pytest.raises(InputError, match=message) as error:
        common.read_jsonl(path, {"task_id": str, "n": int}, check)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_text_that_is_not_utf_8_is_named_by_its_line(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(InputError, match=r"rows.jsonl:2: not a JSON object: 'utf-8' codec"):
        common.read_jsonl(tmp_path / "rows.jsonl", {})


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"nowhere\.jsonl: no such file"):
        common.read_jsonl("nowhere.jsonl", {})


def test_written_rows_read_back_and_leave_nothing_beside(tmp_path):
    rows = [{"task_id": "ü", "text": "a\n\u2028b"}, {"task_id": "b", "text": ""}]
    common.write_jsonl(tmp_path / "deep" / "rows.jsonl", rows)
    assert common.read_jsonl(tmp_path / "deep" / "rows.jsonl", {"task_id": str}) == rows
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["rows.jsonl"]


def test_a_log_is_cut_at_newlines_alone(tmp_path):
    common.append_jsonl(
        tmp_path / "log.jsonl",
        [{"step": 1, "text": "a\u2028b\u0085c\r\n"}, {"step": 2, "value": float("nan")}],
    )
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 3, "te')
    assert [json.loads(line) for line in common.whole_lines(tmp_path / "log.jsonl")] == [
        {"step": 1, "text": "a\u2028b\u0085c\r\n"},
        {"step": 2, "value": None},
    ]


def test_seeds_depend_on_every_argument_and_on_nothing_else():
    seeds = [
        common.seed_of(*key)
        for key in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 1, 0)]
    ]
    assert len(set(seeds)) == 5
    assert seeds[0] == common.seed_of(0, "a", 1) == 1532760995434174994
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(("count", "size"), [(10, 4), (3, 8), (5, 5), (1, 3)])
def test_drawn_batches_go_through_whole_epochs(count, size):
    drawn = [i for step in range(count * 3) for i in common.draw(count, size, step, 0, "rows")]
    for epoch in range(len(drawn) // count):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_learning_rate_warms_up_and_decays_to_zero():
    rates = [common.lr_at(step, 1.0, 4, 20, "cosine") for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[20] == pytest.approx(0) and rates[12] == pytest.approx(0.5)
    assert (
        common.lr_at(19, 1.0, 4, 20, "constant") == 1.0
        and common.lr_at(12, 1.0, 4, 20, "linear") == 0.5
    )


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("x = 1\n", "x = 1\n"),
        ("Sure:\n```python\nx = 1\n```\nand\n```python\ny = 2\n```", "y = 2\n"),
        ("<think>a</think><answer>\nx = 1\n</answer>", "x = 1\n"),
        ("<think>```python\nwrong\n```</think><answer>```python\nx = 1\n```</answer>", "x = 1\n"),
        ("```\nx = 1", "x = 1"),
    ],
)
def test_the_program_is_found_in_the_completion(completion, program):
    assert common.extract_program({}, completion) == program


def test_a_completion_goes_on_after_the_task_s_prefix():
    task = {"prompt": "def f():\n", "prefix": "def f():\n"}
    assert common.extract_program(task, "    return 1\n") == "def f():\n    return 1\n"
    assert (
        common.extract_program(task, "```python\ndef f():\n    return 2\n```")
        == "def f():\n    return 2\n"
    )


def test_a_prompt_uses_the_chat_template_where_there_is_one():
    tokenizer = common.new_tokenizer(["say hello\n"] * 5, 300)
    assert (
        tokenizer.decode(common.encode_prompt(tokenizer, {"prompt": "say hello"})) == "say hello\n"
    )
    assert (
        tokenizer.decode(common.encode_prompt(tokenizer, {"prompt": "def f(", "prefix": "def f("}))
        == "def f("
    )
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    )
    assert (
        tokenizer.decode(common.encode_prompt(tokenizer, {"prompt": "say hello"}))
        == "[user]say hello[assistant]"
    )


def test_text_survives_the_new_tokenizer():
    text = "def f(xs):\n\treturn xs[::2]  # käse 🧀\r\n\n    x = 1234567\n"
    tokenizer = common.new_tokenizer([text] * 3, 400)
    ids = common.encode_completion(tokenizer, text)
    assert ids[-1] == tokenizer.eos_token_id and tokenizer.decode(ids[:-1]) == text


def test_every_end_of_sequence_id_is_honoured():
    tokenizer = common.new_tokenizer(["a b c\n"] * 3, 300)
    policy = common.new_model(tokenizer, 32, 1, seed=0)
    policy.generation_config.eos_token_id = [7, 9]
    assert common.eos_ids(policy, tokenizer) == sorted({7, 9, tokenizer.eos_token_id})
    policy.generation_config.eos_token_id = None
    assert common.eos_ids(policy, tokenizer) == [tokenizer.eos_token_id]


def test_a_reward_model_from_a_policy_starts_at_zero_and_keeps_its_weights_when_saved(tmp_path):
    tokenizer = common.new_tokenizer(["a b c\n"] * 3, 300)
    common.new_model(tokenizer, 32, 1, seed=0).save_pretrained(tmp_path / "policy")
    scorer = common.load_scorer(tmp_path / "policy")
    ids = torch.tensor([[5, 6, 7]])
    assert scorer(input_ids=ids).logits.abs().max() == 0
    torch.nn.init.ones_(scorer.score.weight)
    scorer.save_pretrained(tmp_path / "scorer")
    again = common.load_scorer(tmp_path / "scorer")
    assert torch.equal(again(input_ids=ids).logits, scorer(input_ids=ids).logits)


def test_no_dropout_survives_loading(tmp_path):
    config = transformers.GPT2Config(
        n_embd=16,
        n_layer=1,
        n_head=2,
        vocab_size=300,
        attn_pdrop=0.5,
        resid_pdrop=0.5,
        embd_pdrop=0.5,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for model in (common.load_policy(tmp_path), common.load_scorer(tmp_path)):
        model.train()
        ids = torch.arange(12)[None]
        assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
        assert all(
            module.p == 0 for module in model.modules() if isinstance(module, torch.nn.Dropout)
        )


@dataclass
class RunConfig:
    output_dir: str
    seed: int = 0


def test_a_run_folder_refuses_other_flags_and_knows_when_it_is_complete(tmp_path, capsys):
    config = RunConfig(str(tmp_path / "run"))
    assert common.open_run(config) is None and not (tmp_path / "run").exists()
    common.begin_run(config)
    common.append_jsonl(tmp_path / "run" / "metrics.jsonl", [{"step": 1}, {"step": 2}, {"step": 3}])
    (tmp_path / "run" / "checkpoint-2").mkdir()
    for name in ("checkpoint-10.tmp", "final.tmp", "mine.tmp"):
        (tmp_path / "run" / name).mkdir()
    checkpoint = common.open_run(config)
    assert checkpoint == tmp_path / "run" / "checkpoint-2"
    common.begin_run(config, checkpoint)
    assert [row["step"] for row in common.read_jsonl(tmp_path / "run" / "metrics.jsonl", {})] == [
        1,
        2,
    ]
    assert [path.name for path in (tmp_path / "run").glob("*.tmp")] == ["mine.tmp"]
    with pytest.raises(InputError, match="--seed was 0, is 1"):
        common.open_run(RunConfig(config.output_dir, seed=1))
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        common.open_run(config)
    assert stop.value.code == 0 and "is complete" in capsys.readouterr().out


def test_a_folder_that_holds_a_foreign_model_is_not_written_to(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a model, but no run"):
        common.open_run(RunConfig(str(tmp_path)))


def test_a_folder_that_holds_a_foreign_log_is_not_written_to(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 7}\n')
    with pytest.raises(InputError, match=r"holds a metrics\.jsonl, but no run of this stage"):
        common.open_run(RunConfig(str(tmp_path)))
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 7}\n'


def checkpoint_of(run, step):
    """A checkpoint folder with two files and their digests."""
    folder = run / f"checkpoint-{step}"
    (folder / "critic").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "critic" / "head.safetensors").write_bytes(b"head")
    digests = {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.safetensors")
    }
    (folder / "digests.json").write_text(json.dumps(digests))
    return folder


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "missing", "digests"])
@pytest.mark.parametrize("name", ["model.safetensors", "critic/head.safetensors"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, capsys, name, damage):
    config = RunConfig(str(tmp_path / "run"))
    common.begin_run(config)
    first, second = (checkpoint_of(tmp_path / "run", step) for step in (2, 10))
    assert common.open_run(config) == second
    file = second / name
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    file.write_bytes({"cut": data[:-1], "emptied": b""}.get(damage, bytes(data)))
    if damage == "missing":
        file.unlink()
    if damage == "digests":
        (second / "digests.json").write_text("{")
    assert common.open_run(config) == first
    line = capsys.readouterr().err.splitlines()[-1]
    assert "checkpoint-10" in line and line.endswith("this checkpoint is passed over")
    assert ("digests.json" if damage == "digests" else name) in line


def test_a_second_run_in_a_folder_is_refused_while_the_first_is_at_work(tmp_path):
    config = RunConfig(str(tmp_path / "run"))
    program = (
        "import sys, time, common\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Config:\n    output_dir: str\n    seed: int = 0\n"
        f"common.begin_run(Config({config.output_dir!r}))\nprint('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    first = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        while "ready" not in first.stdout.readline():
            pass
        # open_run refuses too: the first run may delete the checkpoints that the second one reads
        for begin in (common.open_run, common.begin_run):
            with pytest.raises(InputError, match="another run is at work here"):
                begin(config)
    finally:
        first.kill()
        first.communicate()
    common.begin_run(config, common.open_run(config))  # the lock ends with its process


def test_damaged_lines_leave_a_log_with_a_word(tmp_path, capsys):
    config = RunConfig(str(tmp_path / "run"))
    common.begin_run(config)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_bytes(b'{"step": 1}\n\x00\x00\x00\n{"step": 2}\n{"no": 1}\n{"step": 3}\n{"st')
    checkpoint_of(tmp_path / "run", 2)
    common.begin_run(config, common.open_run(config))
    assert [row["step"] for row in common.read_jsonl(log, {})] == [1, 2]
    err = capsys.readouterr().err
    assert err.count("metrics.jsonl: a damaged line is left out") == 2
    assert "completions.jsonl: missing; the run goes on without its past" in err


def test_a_folder_without_a_model_is_refused(tmp_path):
    for load in (common.load_policy, common.load_scorer):
        with pytest.raises(InputError, match=r"not a model folder \(it has no config.json\)"):
            load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match="no model can be loaded from here"):
        common.load_policy(tmp_path)


def test_batches_that_do_not_divide_over_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert common.my_share([1, 2, 3, 4]) == [3, 4]
    with pytest.raises(InputError, match="a batch of 3 does not divide over 2 processes"):
        common.my_share([1, 2, 3])


def test_micro_batches_hold_each_row_once_within_both_limits():
    rng = random.Random(7)
    for _ in range(200):
        lengths = [rng.randrange(0, 60) for _ in range(rng.randrange(0, 30))]
        # Of a unit of two rows, the padded tokens may be above the sum of the lengths.
        padded = [n + rng.randrange(0, 30) for n in lengths] if rng.random() < 0.5 else None
        batches = common.batches_by_length(lengths, 7, 100, padded)
        assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
        costs = padded or lengths
        for batch, after in zip(batches, [*batches[1:], []], strict=False):
            assert len(batch) <= 7
            assert len(batch) == 1 or max(costs[i] for i in batch) * len(batch) <= 100
            # One row more would be above a limit.
            more = [*batch, *after[:1]]
            assert not after or len(more) > 7 or max(costs[i] for i in more) * len(more) > 100
        ordered = [lengths[i] for b in batches for i in b]
        assert ordered == sorted(lengths)
        # Without a limit on tokens: runs of 7 rows.
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        runs = [order[i : i + 7] for i in range(0, len(order), 7)]
        assert common.batches_by_length(lengths, 7) == runs


def test_an_empty_micro_batch_has_a_loss_of_zero_that_is_connected_to_every_parameter():
    tokenizer = common.new_tokenizer(["def f(x):\n    return x + 1\n"], 300)
    policy = common.shard(common.new_model(tokenizer, 32, 1, seed=0))
    critic = common.new_model(tokenizer, 32, 1, seed=0, num_labels=1)
    ids = torch.tensor([[5, 6, 7], [5, 6, 7]])
    rollout = common.Rollout([[3], [3, 4]], ids.tolist(), ["", ""], ids, ids > 0, ids.float())
    assert common.logprobs_of(policy, rollout, [0, 1], 1.0)[0].shape == (2, 3)
    for model, results in [
        (policy, common.logprobs_of(policy, rollout, [], 1.0)),
        (critic, (common.values_of(critic, rollout, []),)),
        (critic, (common.logits_at(critic, [], None),)),
        (critic, (common.logits_at(critic, [], common.line_table(tokenizer)),)),
    ]:
        assert all(result.numel() == 0 and len(result) == 0 for result in results)
        model.zero_grad()
        sum(result.sum() for result in results).backward()
        assert all((p.grad == 0).all() for p in model.parameters())


def test_samples_that_share_a_row_with_their_prompt_are_read_as_if_each_stood_alone():
    tokenizer = common.new_tokenizer(["def f(x):\n    return x + 1\n"], 300)
    policy = common.new_model(tokenizer, 32, 2, seed=0).double()
    policy = common.shard(policy)
    critic = common.new_model(tokenizer, 32, 2, seed=1, num_labels=1).double()
    torch.nn.init.normal_(critic.score.weight, generator=torch.Generator().manual_seed(0))
    prompts = [[7] * 5, [8, 9]]
    completions = [[11, 12, 13], [14], [15, 16], [17, 18, 19, 20], [21], [22, 23, 24]]
    ids = common.pad(completions)
    mask = common.pad([[1] * len(row) for row in completions]).bool()
    repeated = [prompt for prompt in prompts for _ in range(3)]
    rollout = common.Rollout(repeated, completions, [""] * 6, ids, mask, None, samples_a_row=3)

    def read(rollout, rows):
        """Results of some rows, and the gradients of their sum."""
        logprobs, entropies = common.logprobs_of(policy, rollout, rows, 0.7)
        values = common.values_of(critic, rollout, rows)
        inputs, at, _ = common.pad_rollout(rollout, rows, critic)
        scores = critic(**inputs).logits.flatten()[at]
        results = [x * mask[rows] for x in (logprobs, entropies, values, scores)]
        for model in (policy, critic):
            model.zero_grad()
        sum(x.sum() for x in results).backward()
        gradients = [p.grad.clone() for model in (policy, critic) for p in model.parameters()]
        return [x.detach() for x in results], gradients

    rows = [0, 1, 2, 4, 5]  # a part of a prompt's samples too
    found, gradients = read(rollout, rows)
    assert common.pad_rollout(rollout, rows, policy).inputs["input_ids"].tolist() == [
        [7] * 5 + [11, 12, 13, 14, 15, 16],
        [8, 9, 21, 22, 23, 24] + [0] * 5,
    ]
    alone = [read(rollout._replace(samples_a_row=1), [row]) for row in rows]
    for number, result in enumerate(found):
        expected = torch.cat([results[number] for results, _ in alone])
        assert expected.abs().sum() > 0
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)  # log-probs are float32
    for number, gradient in enumerate(gradients):
        expected = sum(each[number] for _, each in alone)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "completion", "flags", "samples"),
    [
        (60, 20, {}, 8),
        (20, 200, {}, 1),  # attention to what the mask hides would cost more than the prompts
        (60, 20, {"num_generations": 6}, 6),
        (60, 20, {"per_device_train_batch_size": 4}, 4),
        (60, 20, {"per_device_train_batch_size": 7}, 4),
        (60, 20, {"max_tokens_per_forward": 100}, 2),
        (1500, 250, {}, 2),  # 1500 + 4 x 250 tokens would be above batches.MAX_SHARED
    ],
)
def test_as_many_samples_share_a_row_as_cost_the_least(prompt, completion, flags, samples):
    flags = {"num_generations": 8, "per_device_train_batch_size": 32} | flags
    config = SimpleNamespace(**{"max_tokens_per_forward": 16384} | flags)
    number = config.num_generations
    ids = torch.zeros(number, completion, dtype=torch.long)
    rollout = common.Rollout([[0] * prompt] * number, ids.tolist(), [], ids, ids > 0, None)
    tokenizer = common.new_tokenizer(["a = 1\n"], 300)
    model = common.new_model(tokenizer, 128, 1, seed=0)
    assert common.batches.samples_a_row(rollout, config, model) == samples
    model.config.sliding_window = 16
    assert common.batches.samples_a_row(rollout, config, model) == 1


def test_samples_that_share_a_row_stay_in_one_micro_batch():
    ids = torch.zeros(12, 4, dtype=torch.long)
    prompts = [[0] * length for length in (30, 10, 20) for _ in range(4)]
    rollout = common.Rollout(prompts, ids.tolist(), [], ids, ids > 0, None, samples_a_row=2)
    config = SimpleNamespace(
        num_generations=4,
        num_mini_batches=1,
        per_device_train_batch_size=5,
        max_tokens_per_forward=1000,
    )
    (batches,) = common.mini_batches(rollout, config)
    assert batches == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]


def test_shuffles_are_permutations_that_differ_by_epoch():
    first, second = (common.shuffled(50, 0, "rows", epoch) for epoch in (0, 1))
    assert first != second and Counter(first) == Counter(second) == Counter(range(50))


def test_a_policy_whose_head_the_log_prob_kernel_does_not_cover_is_refused():
    config = transformers.PhiConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    with pytest.raises(InputError, match="the output layer of PhiForCausalLM has a bias"):
        common.shard(transformers.PhiForCausalLM(config))


def test_a_loop_over_nothing_has_no_bar():
    assert common.progress_bar("test", 0).disable and not common.progress_bar("test", 1).disable
