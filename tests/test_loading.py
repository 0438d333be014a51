"""A model is loaded whole or refused in one line, before a run writes its first file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import common
import eval
import eval_prm
import grpo
import ppo
import sft
import train_prm
from common import InputError

ROOT = Path(__file__).parent.parent
TASK = {"task_id": "t", "prompt": "x = 1\n", "style": "assert", "tests": ["assert x"]}
SIZES = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
GPT2 = {"n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 64}


@pytest.fixture(scope="module")
def tokenizer():
    return common.new_tokenizer(["x = 1\n", "if x:\n    y = 2\n"], 320)


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory):
    """Folders of each kind of model: policy, prm, orm, reasoning_rm, critic, bert, t5, gpt2."""
    folder = tmp_path_factory.mktemp("models")

    def save(name, model):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)

    save("policy", common.new_model(tokenizer, 32, 2, 0))
    for kind in ("prm", "orm", "reasoning_rm", "critic"):
        model = common.new_model(tokenizer, 32, 2, 0, num_labels=4 if kind == "orm" else 1)
        model.config.reward_model_kind = kind
        model.config.score_activation = "expected_outcome" if kind == "orm" else "none"
        save(kind, model)
    ids = {"vocab_size": len(tokenizer), "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    bert = transformers.BertConfig(**SIZES, **ids, intermediate_size=32, num_labels=1)
    save("bert", transformers.BertForTokenClassification(bert))
    t5 = transformers.T5Config(**ids, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16)
    save("t5", transformers.T5ForConditionalGeneration(t5))
    save("gpt2", transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, **ids)))
    olmo = transformers.OlmoConfig(**SIZES, **ids, intermediate_size=32)
    save("olmo", transformers.OlmoForCausalLM(olmo))
    common.write_jsonl(folder / "tasks.jsonl", [TASK])
    return folder


def changed_weights(folder, change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def changed_config(folder, **fields) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | fields))


def truncated(folder, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


def sharded(folder) -> None:
    """Two files and an index, of which the second file is gone."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    save_file({name: state[name] for name in names[:3]}, folder / "model-1.safetensors")
    files = {name: f"model-{1 + (i > 2)}.safetensors" for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


LAYER = "model.layers.1."
DAMAGES = {
    "missing": (
        lambda f: changed_weights(f, lambda s: s.pop(f"{LAYER}mlp.up_proj.weight")),
        f"tensors are missing: {LAYER}mlp.up_proj.weight",
    ),
    "missing layer": (
        lambda f: changed_config(f, num_hidden_layers=3),
        "tensors are missing: model.layers.2.input_layernorm.weight, "
        "model.layers.2.mlp.down_proj.weight, model.layers.2.mlp.gate_proj.weight and 6 more",
    ),
    "unexpected layer": (
        lambda f: changed_config(f, num_hidden_layers=1),
        "tensors are not the model's: model.layers.1.input_layernorm.weight, "
        "model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.gate_proj.weight and 6 more",
    ),
    "unexpected": (
        lambda f: changed_weights(f, lambda s: s.update({"extra.weight": torch.ones(2)})),
        "tensors are not the model's: extra.weight",
    ),
    "misshapen": (
        lambda f: changed_config(f, intermediate_size=40),
        "its weights do not fit: model.layers.0.mlp.down_proj.weight is (32, 88), by config.json "
        "it is (32, 40)",
    ),
    "truncated weights": (
        lambda f: truncated(f, "model.safetensors"),
        "no model can be loaded from here: model.safetensors is damaged: Error while deserializing "
        "header: incomplete metadata, file not fully covered",
    ),
    "garbage weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x05" * 100),
        "no model can be loaded from here: model.safetensors is damaged: Error while deserializing "
        "header: header too large",
    ),
    "empty weights": (
        lambda f: (f / "model.safetensors").write_bytes(b""),
        "no model can be loaded from here: model.safetensors is damaged: ",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "no model can be loaded from here: it has no model.safetensors",
    ),
    "lost shard": (sharded, "no model can be loaded from here: "),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        "not a model folder (it has no config.json)",
    ),
    "truncated config": (
        lambda f: truncated(f, "config.json"),
        "no model can be loaded from here: It looks like the config file at ",
    ),
    "config of another type": (
        lambda f: (f / "config.json").write_text("[1, 2]"),
        "no model can be loaded from here: ",
    ),
    "no model type": (
        lambda f: changed_config(f, model_type=None),
        "no model can be loaded from here: ",
    ),
    "unknown model type": (
        lambda f: changed_config(f, model_type="llama9"),
        "no model can be loaded from here: ",
    ),
    "wrong field": (
        lambda f: changed_config(f, hidden_size="wide"),
        "no model can be loaded from here: ",
    ),
    "heads that do not divide": (
        lambda f: changed_config(f, num_attention_heads=0),
        "no model can be loaded from here: ",
    ),
    "quantised": (
        lambda f: changed_config(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        "its weights are quantised; full-precision weights are needed",
    ),
    "unknown kind": (
        lambda f: changed_config(f, reward_model_kind="verifier"),
        "config.json: reward_model_kind 'verifier' is not known",
    ),
    "no tokenizer": (
        lambda f: [path.unlink() for path in f.glob("tokenizer*")],
        "no tokenizer can be loaded from here: ",
    ),
    "truncated tokenizer": (
        lambda f: truncated(f, "tokenizer.json"),
        "no tokenizer can be loaded from here: ",
    ),
    "truncated tokenizer settings": (
        lambda f: truncated(f, "tokenizer_config.json"),
        "no tokenizer can be loaded from here: ",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(models, tmp_path, damage):
    break_it, line = DAMAGES[damage]
    folder = tmp_path / "model"
    shutil.copytree(models / "policy", folder)
    common.check_model("policy", folder)
    break_it(folder)
    with pytest.raises(InputError) as refusal:
        common.check_model("policy", folder)
    assert str(refusal.value).startswith(f"{folder}: {line}")
    assert "\n" not in str(refusal.value)
    if "tokenizer" in damage:
        with pytest.raises(InputError, match="no tokenizer can be loaded from here"):
            common.load_tokenizer(folder)
    else:  # the load itself finds the same
        with pytest.raises(InputError) as again:
            common.load_policy(folder)
        assert str(again.value) == str(refusal.value)


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(models, tmp_path):
    shutil.copytree(models / "policy", tmp_path / "model")
    tokenizer = common.load_tokenizer(models / "policy")
    tokenizer.add_tokens(["<step>"])
    tokenizer.save_pretrained(tmp_path / "model")
    rows = len(tokenizer) - 1
    message = f"its tokenizer has ids up to {rows}, its embedding has {rows} rows"
    with pytest.raises(InputError, match=message):
        common.check_model("policy", tmp_path / "model")


def test_a_context_beyond_the_learned_positions_is_refused(models, tokenizer):
    length = len(common.encode_prompt(tokenizer, TASK))
    common.check_model("policy", models / "gpt2", 64 - length, [TASK])
    message = "a text may have 65 tokens; beyond 64 it has no positions"
    with pytest.raises(InputError, match=message):
        common.check_model("policy", models / "gpt2", 65 - length, [TASK])
    with pytest.raises(InputError, match="a text may have 128 tokens; beyond 64 it has no pos"):
        common.check_model("backbone", models / "gpt2", 128)
    common.check_model("policy", models / "policy", 10**6, [TASK])  # rotary: no table


def test_prompts_are_as_long_as_the_run_and_each_reward_model_writes_them(models, tmp_path):
    """By the flags for a policy, by its config.json for a reward model."""
    config = transformers.AutoConfig.from_pretrained(models / "gpt2", num_labels=1)
    scorer = transformers.GPT2ForTokenClassification(config)
    chat = common.load_tokenizer(models / "gpt2")
    chat.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}:"
    scorer.config.update({"reward_model_kind": "prm", "prompt_format": "plain"})
    scorer.save_pretrained(tmp_path / "prm")
    shutil.copytree(models / "gpt2", tmp_path / "policy")
    for name in ("prm", "policy"):
        chat.save_pretrained(tmp_path / name)
    task = TASK | {"prompt": "x = 1\n" * 5}
    flags = grpo.Config("", "", "", system_prompt="if x:\n    y = 2\n" * 4)
    lengths = [
        len(common.encode_prompt(chat, task, common.PromptFormat(*shown)))
        for shown in ((), ("plain",), ("auto", flags.system_prompt))
    ]
    assert lengths[0] != lengths[1] < lengths[2] < 64
    common.check_model("policy", tmp_path / "policy", 64 - lengths[2], [task], flags)
    with pytest.raises(InputError, match="policy: a text may have 65 tokens; beyond 64"):
        common.check_model("policy", tmp_path / "policy", 65 - lengths[2], [task], flags)
    common.check_model("prm", tmp_path / "prm", 64 - lengths[1], [task], flags)
    with pytest.raises(InputError, match="prm: a text may have 65 tokens; beyond 64"):
        common.check_model("prm", tmp_path / "prm", 65 - lengths[1], [task], flags)


def test_a_text_that_a_reward_model_of_a_run_cannot_read_names_its_folder(models, tmp_path):
    """A completion may have more tokens in the reward model's tokenizer than in the policy's."""
    own, policy = common.load_tokenizer(models / "gpt2"), common.new_tokenizer(["a b\n"], 300)
    scorer = transformers.GPT2ForTokenClassification(
        transformers.AutoConfig.from_pretrained(models / "gpt2", num_labels=1)
    )
    text = "x = 1\n" * 64
    ids = torch.tensor([common.encode_text(policy, text)])
    rollout = common.Rollout([[]], ids.tolist(), [text], ids, ids >= 0, None, ids[:, 0] >= 0)
    rollout = rollout._replace(tasks=(TASK,))
    config, table = ppo.Config("", "", ""), common.line_table(policy)
    for kind in ("prm", "orm", "reasoning_rm"):
        scorer.config.reward_model_kind = kind
        scorer.save_pretrained(tmp_path / kind)
        own.save_pretrained(tmp_path / kind)
    for kind, score in (
        ("prm", lambda model: common.score_lines(model, rollout, None, table, config)),
        ("orm", lambda model: common.score_outcomes(model, rollout, None, config)),
    ):
        model = common.load_reward_model(str(tmp_path / kind), policy)
        with pytest.raises(InputError, match=rf"{kind}: a text may have \d+ tokens; beyond 64"):
            score(model)
    config = grpo.Config("", "", "", reasoning_rm=str(tmp_path / "reasoning_rm"))
    thought = rollout._replace(texts=[f"<think>{text}</think><answer>x</answer>"])
    model = common.load_reasoning_rm(config.reasoning_rm)
    with pytest.raises(InputError, match=r"reasoning_rm: a text may have \d+ tokens; beyond 64"):
        common.score_reasoning(*model, thought, config)


# Which kinds of model each flag takes; all others are refused.
TAKEN = {
    "policy": {"policy", "gpt2", "olmo"},
    "prm": {"prm"},
    "orm": {"orm", "reasoning_rm"},
    "reasoning_rm": {"reasoning_rm"},
    "backbone": {"policy", "gpt2", "olmo", "prm", "orm", "reasoning_rm", "critic"},
}
SAYS = {
    "policy": "holds a policy, not ",
    "gpt2": "holds a policy, not ",
    "olmo": "holds a policy, not ",
    "prm": "holds a line reward model (PRM), not ",
    "orm": "holds an outcome reward model (ORM), not ",
    "reasoning_rm": "holds a reasoning reward model, not ",
    "critic": "holds a critic, not ",
    "bert": "bert is no language model that reads from left to right",
    "t5": "t5 is no language model that reads from left to right",
}


@pytest.mark.parametrize("wanted", TAKEN)
@pytest.mark.parametrize("name", SAYS)
def test_a_model_of_another_kind_is_refused(models, wanted, name):
    if name in TAKEN[wanted]:
        common.check_model(wanted, models / name)
        return
    with pytest.raises(InputError) as refusal:
        common.check_model(wanted, models / name)
    assert str(refusal.value).startswith(f"{models / name}: {SAYS[name]}")


def test_the_loaders_know_the_kinds_too(models):
    with pytest.raises(InputError, match="holds a line reward model"):
        common.load_policy(models / "prm")
    with pytest.raises(InputError, match="bert is no language model"):
        common.load_scorer(models / "bert")


@pytest.mark.parametrize(
    ("stage", "flags", "message"),
    [
        (ppo, {"model_name_or_path": "prm"}, "holds a line reward model"),
        (ppo, {"prm": "policy"}, "holds a policy, not a line reward model"),
        (ppo, {"prm": "orm"}, "holds an outcome reward model"),
        (ppo, {"orm": "prm", "outcome_reward": "orm"}, "holds a line reward model"),
        (ppo, {"model_name_or_path": "gpt2"}, "it has no positions"),
        (grpo, {"model_name_or_path": "orm"}, "holds an outcome reward model"),
        (grpo, {"reasoning_rm": "policy"}, "holds a policy, not a reasoning reward model"),
        (eval, {"model_name_or_path": "bert"}, "reads from left to right"),
        (
            eval,
            {"model_name_or_path": "nowhere"},
            r"nowhere: no model can be loaded from here \(there is no such folder; tried",
        ),
        (sft, {"model_name_or_path": "critic"}, "holds a critic"),
        (train_prm, {"model_name_or_path": "bert"}, "reads from left to right"),
        (train_prm, {"model_name_or_path": "gpt2"}, "a text may have 1024 tokens"),
        (eval_prm, {"prm": "reasoning_rm"}, "holds a reasoning reward model"),
    ],
)
def test_a_stage_refuses_before_it_writes(models, tmp_path, stage, flags, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no retries
    row = {**TASK, "completions": ["y = 1\n"], "labels": [1], "completion": "y = 1\n"}
    common.write_jsonl(tmp_path / "data.jsonl", [row])
    data = "data" if stage in (train_prm, eval_prm) else "tasks"
    paths = {name: str(models / value) for name, value in flags.items() if name != "outcome_reward"}
    given = {data: str(tmp_path / "data.jsonl"), "output_dir": str(tmp_path / "run")}
    start = {} if stage is eval_prm else {"model_name_or_path": str(models / "policy")}
    config = stage.Config(**(start | given | flags | paths))
    with pytest.raises(InputError, match=message):
        stage.main(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl"]


def test_a_name_that_is_no_folder_and_not_on_the_hub_is_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no retries
    with pytest.raises(
        InputError, match=r"nobody/nothing: no model can be loaded from here \(there"
    ):
        common.check_model("policy", "nobody/nothing")


def test_the_user_sees_one_line(models, tmp_path):
    flags = ["--tasks", str(models / "tasks.jsonl"), "--output_dir", str(tmp_path / "run")]
    command = [sys.executable, "ppo.py", *flags, "--model_name_or_path", str(models / "prm")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    line = f"ppo.py: error: {models / 'prm'}: holds a line reward model (PRM), not a policy\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", line)
    assert not (tmp_path / "run").exists()


def published(folder, tokenizer, model, biased: bool = True) -> None:
    """A token or sequence classifier as others publish it: none of our fields in config.json."""
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    if biased:
        torch.nn.init.constant_(model.score.bias[:1], 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def llama(tokenizer, num_labels):
    settings = common.new_model(tokenizer, 32, 1, 0).config.to_dict()
    return transformers.LlamaConfig(**settings | {"num_labels": num_labels})


def test_a_published_classifier_of_two_labels_scores_by_the_difference_of_logits(
    tokenizer, tmp_path
):
    ids = torch.arange(20)[None]
    model = transformers.LlamaForTokenClassification(llama(tokenizer, 2)).eval()
    published(tmp_path / "prm", tokenizer, model)
    common.check_model("prm", tmp_path / "prm")
    scorer = common.load_scorer(tmp_path / "prm").eval()
    logits = model(input_ids=ids).logits
    torch.testing.assert_close(common.scores_of(scorer, ids), logits[..., 1] - logits[..., 0])
    scorer.save_pretrained(tmp_path / "again")  # as a critic that started from it, say
    again = common.load_scorer(tmp_path / "again").eval()
    assert torch.equal(again(input_ids=ids).logits, scorer(input_ids=ids).logits)


def test_a_published_sequence_classifier_is_an_outcome_reward_model(tokenizer, tmp_path):
    ids = torch.arange(20)[None]
    model = transformers.LlamaForSequenceClassification(llama(tokenizer, 1)).eval()
    published(tmp_path, tokenizer, model, biased=False)
    common.check_model("orm", tmp_path)
    scores = common.scores_of(common.load_scorer(tmp_path).eval(), ids)
    torch.testing.assert_close(scores[:, -1:], model(input_ids=ids).logits)
    with pytest.raises(InputError, match="holds a sequence classifier, not a line reward model"):
        common.check_model("prm", tmp_path)


def test_a_classifier_of_many_labels_is_no_reward_model(tokenizer, tmp_path):
    published(tmp_path, tokenizer, transformers.LlamaForTokenClassification(llama(tokenizer, 9)))
    with pytest.raises(InputError, match=r"9 labels; score_activation needs 1 or 2"):
        common.check_model("prm", tmp_path)


@pytest.mark.parametrize("head", [b"", None, {"weight": torch.ones(1, 32)}])
def test_a_head_of_ours_is_whole_or_refused(models, tmp_path, head):
    model = common.load_scorer(models / "olmo")
    model.config.reward_model_kind = "prm"
    model.save_pretrained(tmp_path)
    common.load_scorer(tmp_path)
    path = tmp_path / "head.safetensors"
    if head is None:
        path.unlink()
    elif isinstance(head, bytes):
        path.write_bytes(head)
    else:
        save_file(head, path)
    for headers_only in (True, False):
        with pytest.raises(InputError, match=r"head.safetensors cannot be loaded") as refusal:
            common.load_scorer(tmp_path, headers_only=headers_only)
        assert "\n" not in str(refusal.value)


def test_a_reward_model_without_its_head_is_refused(models, tmp_path):
    shutil.copytree(models / "prm", tmp_path / "prm")
    changed_weights(tmp_path / "prm", lambda state: state.pop("score.bias"))
    with pytest.raises(InputError, match=r"tensors are missing: score.bias"):
        common.check_model("prm", tmp_path / "prm")


def test_a_check_reads_no_weights_and_draws_no_random_number(models):
    before = torch.get_rng_state()
    model = common.load_policy(models / "policy", headers_only=True)
    assert all(not parameter.any() for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_an_architecture_without_a_token_classifier_is_reward_model_and_critic_and_resumes(
    models, tmp_path
):
    rows = [
        {**TASK, "task_id": f"t{i}", "completions": ["y = 1\n", f"z = {j}\n"], "labels": [1, 1 - j]}
        for i in range(12)
        for j in (0, 2)
    ]
    common.write_jsonl(tmp_path / "prm.jsonl", rows)
    flags = {"max_steps": 2, "train_batch_size": 8, "eval_fraction": 0.3}
    paths = (str(tmp_path / "prm.jsonl"), str(tmp_path / "prm"), str(models / "olmo"))
    train_prm.main(train_prm.Config(*paths, **flags))
    paths = (str(models / "tasks.jsonl"), str(models / "olmo"), str(tmp_path / "run"))
    flags = {"prm": str(tmp_path / "prm"), "value_init": "prm", "max_steps": 2, "save_steps": 1}
    config = ppo.Config(*paths, **flags, num_prompts=2, num_generations=2, max_completion_length=8)
    ppo.main(config)
    names = ["model.safetensors", "checkpoint-1/critic/head.safetensors"]
    whole = [load_file(tmp_path / "run" / name) for name in names]
    assert whole[1]["weight"].any()
    (tmp_path / "run" / "config.json").unlink()  # as if it had been killed after step 1
    ppo.main(config)
    again = [load_file(tmp_path / "run" / name) for name in names]
    for before, after in zip(whole, again, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(InputError, match="holds a critic, not a line reward model"):
        common.check_model("prm", tmp_path / "run" / "checkpoint-1" / "critic")


@pytest.mark.parametrize("auc, warned", [(0.0, True), (0.94, True), (0.96, False), (None, False)])
def test_a_prm_of_low_held_out_auc_is_warned_of(models, tokenizer, tmp_path, capsys, auc, warned):
    shutil.copytree(models / "prm", tmp_path / "prm")
    (tmp_path / "prm" / "report.json").write_text(json.dumps({"eval_auc": auc}))
    common.load_reward_model(str(tmp_path / "prm"), tokenizer)
    assert ("expect it to be over-optimised" in capsys.readouterr().out) == warned
