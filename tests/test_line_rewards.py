"""Line rewards from reward models of any tokenizer: which token of the policy gets which score."""

import itertools
import random
import types
import zlib

import pytest
import small_tokenizers as small
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import common
import ppo
import train_prm
from common import InputError
from kernels import lexer, masking
from prm_data import gold

STEP = "<step>"


@pytest.fixture(scope="module")
def tokenizers():
    made = {name: make() for name, make in small.TOKENIZERS.items()}
    made["steps"] = small.TOKENIZERS["characters"]()
    made["steps"].add_special_tokens({"additional_special_tokens": [STEP]})
    return made


def value_of(text: str) -> float:
    """What the oracle says of a line (or a whole text): a number in [-1, 1]."""
    return zlib.crc32(text.encode()) % 2001 / 1000 - 1


class Oracle(torch.nn.Module):
    """A PRM whose score after a token is a function of the last line that ends there, and without
    such a line of the line so far. `seen`: the texts that it was given."""

    def __init__(self, tokenizer, step_token=None):
        super().__init__()
        self.tokenizer, self.seen = tokenizer, []
        self.config = types.SimpleNamespace(step_token=step_token)

    def score(self, before: str, text: str) -> float:
        """after a token, before which the text was `before`"""
        lines = small.source_lines(text)
        ended = [line for line in lines if line.endswith(("\r", "\n"))]
        grown = len(ended) > sum(x.endswith(("\r", "\n")) for x in small.source_lines(before))
        return value_of(ended[-1] if grown or lines[-1:] == ended[-1:] else lines[-1])

    def forward(self, input_ids):
        texts = [[self.tokenizer.decode(row[:t]) for t in range(len(row) + 1)] for row in input_ids]
        self.seen += [row[-1] for row in texts]
        scores = [[self.score(*pair) for pair in itertools.pairwise(row)] for row in texts]
        return types.SimpleNamespace(logits=torch.tensor(scores)[..., None])


class StepOracle(Oracle):
    """A PRM whose score after a step token is a function of the line before it; 9 elsewhere."""

    def score(self, before: str, text: str) -> float:
        if not text.endswith(STEP):
            return 9.0
        return value_of(text.removesuffix(STEP).rpartition(STEP)[2].removeprefix("p\n"))


class WholeOracle(Oracle):
    """An ORM: a function of the whole text so far, EOS included."""

    def score(self, before: str, text: str) -> float:
        return value_of(text)


def rollout_of(tokenizer, texts, ended=None, tasks=None):
    ids, mask, _ = small.batch(tokenizer, texts)
    tasks = tasks or [{"task_id": "t", "prompt": "p"}] * len(texts)
    ended = torch.tensor(ended or [False] * len(texts))
    completions = [row[: int(m.sum())] for row, m in zip(ids.tolist(), mask, strict=True)]
    prompts = [common.encode_prompt(tokenizer, task) for task in tasks]
    return common.Rollout(
        prompts, completions, texts, ids, mask, torch.zeros(ids.shape), ended, tuple(tasks)
    )


def scores_of(reward_model, rollout, tokenizer, **flags):
    config = ppo.Config("", "", "", per_device_train_batch_size=3, **flags)
    table = masking.line_table(tokenizer)
    return common.score_lines(reward_model, rollout, None, table, config)


def expected_scores(rollout, tokenizer, line_scores):
    """The rule of put_at_line_ends, read off the text: the mean over the lines that end in a token,
    over those that are not blank where there is one."""
    expected = torch.zeros(rollout.ids.shape)
    for row, text in enumerate(rollout.texts):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        _, ends, lines = small.lines_of_tokens(tokenizer, text, ids)
        for token in set(ends):
            own = [i for i, end in enumerate(ends) if end == token]
            own = [i for i in own if lines[i].strip()] or own
            expected[row, token] = sum(line_scores[row][i] for i in own) / len(own)
    return expected


@pytest.mark.parametrize("own", list(small.TOKENIZERS))
@pytest.mark.parametrize("policy", list(small.TOKENIZERS))
def test_scores_of_lines_land_on_the_policy_s_tokens_at_line_ends(tokenizers, policy, own):
    rng = random.Random(policy + own)
    texts = [small.random_program(rng)[:120] for _ in range(8)] + ["if x:\n    y = 1", "", "\n\n"]
    # A prompt with a line end, after which the first line begins.
    rollout, oracle = rollout_of(tokenizers[policy], texts), Oracle(tokenizers[own])
    found = scores_of(
        common.RewardModel(oracle, tokenizers[own], False), rollout, tokenizers[policy]
    )
    line_scores = []
    for text in texts:
        ids = tokenizers[own](text, add_special_tokens=False).input_ids
        _, ends, lines = small.lines_of_tokens(tokenizers[own], text, ids)
        last = {}  # the last line that a token ends visibly, by a terminator
        for end, line in zip(ends, lines, strict=True):
            if end not in last or line.endswith(("\r", "\n")):
                last[end] = line
        line_scores.append([value_of(last[end]) for end in ends])
        assert own != "characters" or line_scores[-1] == [value_of(line) for line in lines]
    expected = expected_scores(rollout, tokenizers[policy], line_scores)
    torch.testing.assert_close(found, expected)
    assert found.any()
    assert {text.replace(small.PAD, "").removeprefix("p\n") for text in oracle.seen} >= set(texts)


def test_newline_and_indentation_in_one_token_of_the_policy():
    text = "if x:\n    y = 1\n    z = 2\n"
    policy, own = small.split_into(r"\n +|\n|[^\n]+"), small.split_into(r"[\s\S]")
    pieces = ["if x:", "\n    ", "y = 1", "\n    ", "z = 2", "\n"]
    vocabulary = {piece: i for i, piece in enumerate([small.PAD, small.EOS, *sorted(set(pieces))])}
    policy.backend_tokenizer.model = models.WordLevel(vocabulary, unk_token=small.PAD)
    policy = small.wrap(policy.backend_tokenizer)
    rollout = rollout_of(policy, [text])
    assert policy.convert_ids_to_tokens(rollout.completions[0]) == pieces
    found = scores_of(common.RewardModel(Oracle(own), own, False), rollout, policy)
    lines = ["if x:\n", "    y = 1\n", "    z = 2\n"]
    expected = [0, value_of(lines[0]), 0, value_of(lines[1]), 0, value_of(lines[2])]
    torch.testing.assert_close(found[0, :6], torch.tensor(expected))


@pytest.mark.parametrize("policy", ["merging_bpe", "words"])
def test_a_step_token_stands_after_each_line_and_the_score_is_read_there(tokenizers, policy):
    texts = ["a = 1\nb = 2\n\nreturn a", "x\r\n", "    y = 1\n"]
    rollout = rollout_of(tokenizers[policy], texts)
    oracle = StepOracle(tokenizers["steps"], STEP)
    found = scores_of(
        common.RewardModel(oracle, tokenizers["steps"], False), rollout, tokenizers[policy]
    )
    line_scores = [[value_of(line) for line in small.source_lines(text)] for text in texts]
    torch.testing.assert_close(found, expected_scores(rollout, tokenizers[policy], line_scores))
    seen = {text.replace(small.PAD, "") for text in oracle.seen}
    assert f"p\na = 1\n{STEP}b = 2\n{STEP}\n{STEP}return a{STEP}" in seen


def test_a_token_with_several_line_ends_gets_the_mean_of_the_lines_that_are_not_blank(tokenizers):
    policy, text = tokenizers["words"], "print\n\n\nx\n\n"
    rollout = rollout_of(policy, [text, "\n\n"])
    tokens = policy.convert_ids_to_tokens(rollout.completions[0])
    assert tokens[:2] == ["print", "\n\n\n"]
    scores = [[0.5, -1.0, -1.0, 0.25, 1.0], [-0.5, 1.0]]
    found = common.put_at_line_ends(scores, rollout, masking.line_table(policy))
    assert found[0, :4].tolist() == [0, 0.5, 0, 0.25] and found[1, 0] == 0.25
    merged = small.split_into(r"x\ny\n|\n|[xy]")
    vocabulary = {p: i for i, p in enumerate([small.PAD, small.EOS, "x\ny\n", "\n", "x", "y"])}
    merged.backend_tokenizer.model = models.WordLevel(vocabulary, unk_token=small.PAD)
    merged = small.wrap(merged.backend_tokenizer)
    rollout = rollout_of(merged, ["x\ny\n"])
    found = common.put_at_line_ends([[0.5, -0.25]], rollout, masking.line_table(merged))
    assert found[0, 0] == 0.125


def test_an_orm_with_another_tokenizer_reads_the_whole_text_and_an_eos_where_it_ended(tokenizers):
    texts, ended = ["x = 1\n", "y = 2", "z = 3\n"], [True, False, True]
    rollout = rollout_of(tokenizers["merging_bpe"], texts, ended)
    own = tokenizers["characters"]
    config = ppo.Config("", "", "", per_device_train_batch_size=2)
    orm = common.RewardModel(WholeOracle(own), own, False)
    found = common.score_outcomes(orm, rollout, None, config)
    expected = [
        value_of("p\n" + text + small.EOS * end) for text, end in zip(texts, ended, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_where_tokenizers_agree_the_sampled_ids_are_read_as_they_are(tokenizers):
    tokenizer, config = tokenizers["merging_bpe"], ppo.Config("", "", "")
    text = "def f(a):\n    return a\n"
    rollout = rollout_of(tokenizer, [text])
    ids = [i for c in text for i in tokenizer(c, add_special_tokens=False).input_ids]
    assert tokenizer.decode(ids) == text and ids != rollout.completions[0]
    spelt = torch.tensor([ids])  # not as the tokenizer would write the text
    rollout = rollout._replace(completions=[ids], ids=spelt, mask=spelt >= 0)
    model = common.new_model(tokenizer, 32, 1, seed=0, num_labels=1).eval()
    torch.nn.init.normal_(model.score.weight)
    reward_model, batches = common.RewardModel(model, tokenizer, True), [[[0]]]
    table = masking.line_table(tokenizer)
    prompt = common.encode_prompt(tokenizer, rollout.tasks[0])
    with torch.no_grad():
        direct = model(input_ids=torch.tensor([prompt + ids])).logits[:, len(prompt) :, 0]
    assert torch.equal(common.score_lines(reward_model, rollout, batches, table, config), direct)
    outcome = common.score_outcomes(reward_model, rollout, batches, config)
    assert torch.equal(outcome, direct[:, -1])
    without = common.score_lines(None, rollout, batches, table, config)
    assert torch.equal(without, torch.zeros_like(direct))


def saved(folder, tokenizer, **fields):
    folder.mkdir()
    model = common.new_model(tokenizer, 32, 1, seed=0, num_labels=1)
    for name, value in fields.items():
        setattr(model.config, name, value)
    common.save_model(model, tokenizer, folder)
    return str(folder)


def test_a_reward_model_reads_ids_only_where_vocabulary_template_and_line_ends_agree(
    tokenizers, tmp_path, capsys
):
    policy, other = tokenizers["characters"], tokenizers["words"]
    same = common.load_reward_model(saved(tmp_path / "same", policy), policy, is_critic=True)
    assert same.reads_ids and capsys.readouterr().out == ""
    read = common.load_reward_model(saved(tmp_path / "other", other), policy)
    assert not read.reads_ids and "its own tokenizer" in capsys.readouterr().out
    assert read.tokenizer.get_vocab() == other.get_vocab()
    with pytest.raises(InputError, match=r"--value_init prm: .*other"):
        common.load_reward_model(str(tmp_path / "other"), policy, is_critic=True)
    stepped = saved(tmp_path / "steps", tokenizers["steps"], step_token=STEP)
    assert not common.load_reward_model(stepped, tokenizers["steps"]).reads_ids
    with pytest.raises(InputError, match=r"step_token '<no>' is no token"):
        common.load_reward_model(saved(tmp_path / "no", policy, step_token="<no>"), policy)
    chat = small.TOKENIZERS["characters"]()
    chat.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}:"
    assert not common.load_reward_model(saved(tmp_path / "chat", chat), policy).reads_ids
    words = Tokenizer(models.WordLevel({small.PAD: 0, small.EOS: 1, "x": 2}, unk_token=small.PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(InputError, match="keeps no newlines"):
        common.load_reward_model(saved(tmp_path / "blind", small.wrap(words)), policy)
    assert common.load_reward_model(None, policy) is None


@pytest.mark.parametrize("pooling", ["last", "lines"])
def test_an_orm_that_learned_from_pairs_reads_what_it_read_in_training(
    tokenizers, tmp_path, pooling
):
    tokenizer, eos = tokenizers["characters"], tokenizers["characters"].eos_token_id
    path = saved(
        tmp_path / "rm", tokenizer, reward_model_kind="reasoning_rm", score_pooling=pooling
    )
    orm = common.load_reward_model(path, tokenizer)
    torch.nn.init.normal_(orm.model.score.weight, generator=torch.Generator().manual_seed(0))
    texts = ["a = 1\nb = 2\n", "c = 3"]
    rollout = rollout_of(tokenizer, texts, [True, True])
    ended = [[*ids, eos] for ids in rollout.completions]
    mask = common.pad([[1] * len(ids) for ids in ended]).bool()
    rollout = rollout._replace(completions=ended, ids=common.pad(ended), mask=mask)
    found = common.score_outcomes(orm, rollout, [[[0, 1]]], ppo.Config("", "", ""))
    rows = [{"prompt": "p", "text": text, "eos": False} for text in texts]
    common.encode_examples(tokenizer, rows, common.prompt_format_of(orm.model.config))
    table = common.line_table(tokenizer) if pooling == "lines" else None
    with torch.no_grad():
        learned = common.logits_at(orm.model, rows, table, pooling)[:, 0, 0]
    torch.testing.assert_close(found, learned)
    found = common.score_texts(orm.model, tokenizer, rows, texts, 2, ended=[True, True])
    torch.testing.assert_close(found, learned)


@pytest.mark.parametrize(
    ("program", "text", "lines"),
    [
        ("a\nb\n", "a\nb\n", [0, 1]),
        ("", "", []),
        ("def f():\n    return 1\n", "    return 1\n", [1]),  # after a prefix
        ("def f(x):\n    return 1\n", "x):\n    return 1\n", [0, 1]),  # ... that ends in mid-line
        ("a\n\nb\n", "So:\n```python\na\n\nb\n```\nDone.\n", [None, None, 0, 1, 2, None, None]),
        ("p\na\nb\n", "~~~\na\nb\n~~~\n", [None, 1, 2, None]),  # a prefix before a fence
        ("if a:\n  b\n", "1. x\n   ```\n   if a:\n     b\n   ```", [None, None, 0, 1, None]),
        ("a\nb", "<answer>a\nb</answer>", [0, 1]),
        ("a\nb\n", "<think>\na\n</think><answer>\na\nb\n</answer>", [None] * 3 + [0, 1, None]),
        ("a\r\nb\r\n", "```\r\na\r\nb\r\n```", [None, 0, 1, None]),
        ("a\nb\n", "```\na\nb\n```\n```\na\nb\n```\n", [None] * 5 + [0, 1, None]),
        ("x = 1\n", "Nothing of it.\n", [None]),
    ],
)
def test_the_lines_of_a_completion_that_are_the_program_s(program, text, lines):
    assert common.program_lines(program, text) == lines


FENCED = "It's (so.\n```python\ndef f(x):\n    # why\n    return x\n```\nDone, isn't it?"


@pytest.mark.parametrize("policy", list(small.TOKENIZERS))
def test_prose_and_fences_have_no_line_reward_unless_asked(tokenizers, policy):
    tokenizer, own = tokenizers[policy], tokenizers["characters"]
    rollout, table = rollout_of(tokenizer, [FENCED]), masking.line_table(tokenizer)
    row = tokenizer(FENCED, add_special_tokens=False).input_ids
    _, ends, lines = small.lines_of_tokens(tokenizer, FENCED, row)
    line_ends, code_ends = common.line_ends(rollout, table)
    assert line_ends[0].nonzero().flatten().tolist() == sorted({ends[i] for i in (2, 3, 4)})
    assert code_ends[0].nonzero().flatten().tolist() == sorted({ends[i] for i in (2, 4)})
    reward_model = common.RewardModel(Oracle(own), own, False)
    found = scores_of(reward_model, rollout, tokenizer)
    assert found[0, ends[3]] == pytest.approx(value_of(lines[3]))
    assert not found[~line_ends].any()
    everywhere = masking.line_ends(rollout.ids, rollout.mask, table)
    assert torch.equal(common.line_ends(rollout, table, score_prose=True)[0], everywhere)
    found = scores_of(reward_model, rollout, tokenizer, score_prose=True)
    assert found[0, ends[0]] == pytest.approx(value_of(lines[0])) and found[0, ends[5]]


@pytest.mark.parametrize("policy", list(small.TOKENIZERS))
def test_bare_programs_have_a_reward_at_every_line(tokenizers, policy):
    tokenizer, rng = tokenizers[policy], random.Random(policy)
    texts = [small.random_program(rng) for _ in range(30)]
    rollout, table = rollout_of(tokenizer, texts), masking.line_table(tokenizer)
    line_ends, code_ends = common.line_ends(rollout, table)
    assert torch.equal(line_ends, masking.line_ends(rollout.ids, rollout.mask, table))
    assert torch.equal(code_ends, lexer.code_ends(rollout.ids, rollout.mask, table))


@pytest.mark.slow
def test_ppo_learns_from_a_prm_and_an_orm_with_tokenizers_of_their_own(stages):
    module, config = stages.train_prm("prm-other", max_steps=2)
    config.model_name_or_path, config.vocab_size = "micro", 300
    module.main(config)
    module, config = stages.train_prm("orm-other", max_steps=2, objective="ranking")
    config.model_name_or_path, config.vocab_size = "micro", 300
    config.data = stages.path("pairs.jsonl")
    module.main(config)
    flags = {"prm": stages.path("prm-other"), "orm": stages.path("orm-other"), "max_steps": 1}
    with pytest.raises(InputError, match="--value_init prm"):
        module, config = stages.ppo("ppo-refused", outcome_reward="orm", **flags)
        module.main(config)
    module, config = stages.ppo("ppo-other", outcome_reward="orm", value_init="policy", **flags)
    module.main(config)
    (row,) = common.logged_metrics(config.output_dir)
    assert row["rewards/prm/mean"] != 0 and row["rewards/orm/mean"] != 0


def test_a_fence_around_labelled_lines_and_a_prefix_has_no_label():
    row = {"completions": ["a\n", "b"], "labels": [1, -1], "meta": {"changed": [1], "steps": 2}}
    found = common.fence_labelled_lines(row)
    assert found["completions"] == ["```python\n", "a\n", "b\n", "```"]
    assert found["labels"] == [None, 1, -1, None]
    assert found["meta"] == {"changed": [2], "steps": 2}
    found = common.fence_labelled_lines(row | {"prefix": "def f():\n    x"})  # ends in mid-line
    assert found["completions"] == ["```python\n", "def f():\n", "    xa\n", "b\n", "```"]
    assert found["labels"] == [None, None, 1, -1, None]
    written = {"completions": ["```\n", "a\n", "```\n"], "labels": [None, 1, None]}
    assert common.fence_labelled_lines(written) == written | {"meta": {}}


def test_a_prm_is_trained_on_fenced_lines_and_an_orm_on_fenced_programs(tmp_path):
    row = {"task_id": "t", "prompt": "p", "completions": ["a\n"], "labels": [1]}
    common.write_jsonl(tmp_path / "prm.jsonl", [row])
    (example,) = common.read_labelled_lines(str(tmp_path / "prm.jsonl"), fence=True)
    assert example["text"] == "```python\na\n```" and example["labels"] == [None, 1, None]
    rows = [
        {"task_id": "t", "prompt": "p", "completion": text, "status": "passed", "terminated": ended}
        for text, ended in (("a\n", True), ("a", False), ("So:\n```\na\n```", True))
    ]
    common.write_jsonl(tmp_path / "outcomes.jsonl", rows)
    examples = common.read_outcomes(str(tmp_path / "outcomes.jsonl"), fence=True)
    texts = ["```python\na\n```", "```python\na", "So:\n```\na\n```"]
    assert [example["text"] for example in examples] == texts
    pairs = [{"task_id": "t", "prompt": "p", "chosen": "a", "rejected": "b"}]
    common.write_jsonl(tmp_path / "pairs.jsonl", pairs)
    config = train_prm.Config(str(tmp_path / "pairs.jsonl"), "", objective="score", fence=True)
    with pytest.raises(InputError, match="--fence is for programs"):
        common.read_examples(config)


def test_gold_rows_are_the_completions_as_written():
    task = {"task_id": "t", "prompt": "p", "prefix": "def f():\n", "solution": ""}
    text = "So:\n```python\ndef f():\n    return 1\n```\n"
    sample = {"completion": text, "solution": "def f():\n    return 1\n", "status": "failed"}
    row = gold.row_of(task, sample, [1.0, -1.0])
    assert "".join(row["completions"]) == text
    assert row["labels"] == [None, None, 1.0, -1.0, None] and row["meta"]["changed"] == [3]
    sample = {"completion": "    return 1\n", "solution": "def f():\n    return 1\n"}
    row = gold.row_of(task, sample, [1.0, -1.0])
    assert row["completions"] == ["    return 1\n"] and row["labels"] == [-1.0]
    row = gold.row_of(task, {"solution": sample["solution"]}, [1.0, -1.0])
    assert row["completions"] == ["    return 1\n"] and row["labels"] == [-1.0]
