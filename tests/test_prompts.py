"""Prompts and completions with tokenizers of each kind; chat templates; prompt formats; the
published protocols, word for word."""

import json
import re
import string

import pytest
import torch
import transformers
from small_tokenizers import byte_level
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import common
import dpo
import eval as evaluation
import ppo
import sft
import train_prm
from benchmarks import protocols
from common import InputError, PromptFormat
from kernels import draws, masking, sampling

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SPACE = "\u2581"
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
OPENS_THINK = CHATML.replace("<|assistant|>\n{% endif", "<|assistant|>\n<think>\n{% endif")


def wrapped(tokenizer: Tokenizer, bos: bool = True) -> PreTrainedTokenizerFast:
    """With special tokens, and a post-processor that begins a text with BOS."""
    tokenizer.add_special_tokens([BOS, EOS, PAD])
    if bos:
        pair = (BOS, tokenizer.token_to_id(BOS))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[pair]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD
    )


def sentencepiece(prepends: bool) -> Tokenizer:
    """BPE of characters, runs of spaces and bytes, as Llama-2's (it prepends a space, and drops one
    in decoding) or Gemma's."""
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] + [SPACE]
    tokens += [c for c in string.printable if c not in string.whitespace]
    runs = [SPACE * n for n in (2, 4)]
    merges = [(SPACE, SPACE), (SPACE * 2, SPACE * 2), (SPACE, "d"), (SPACE * 4, "r")]
    tokens += [*runs, SPACE + "d", SPACE * 4 + "r"]
    vocabulary = {token: i for i, token in enumerate(["<unk>", *tokens])}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    replace = normalizers.Replace(" ", SPACE)
    parts = [normalizers.Prepend(SPACE), replace] if prepends else [replace]
    tokenizer.normalizer = normalizers.Sequence(parts)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if prepends else []
    tokenizer.decoder = decoders.Sequence(steps + strip)
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = sentencepiece(False)
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first"), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


KINDS = {
    "byte_level": lambda: byte_level(True),
    "llama3": lambda: wrapped(byte_level(True).backend_tokenizer),
    "llama2": lambda: wrapped(sentencepiece(True)),
    "gemma": lambda: wrapped(sentencepiece(False)),
    "metaspace": lambda: wrapped(metaspace()),
    "micro": lambda: common.new_tokenizer([CODE] * 3, 400),
}
CODE = "    return x\n  # ü\n\n    d = 1\n"


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def chat():
    """A byte-level tokenizer with a chat template, whose think and answer tags are special."""
    tokenizer = byte_level(True)
    special = ["<|user|>", "<|assistant|>", "<|system|>", "</s>", *masking.TAGS]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.chat_template = CHATML
    return tokenizer


def test_a_plain_prompt_begins_as_the_tokenizer_begins_a_text(tokenizer):
    for task in ({"prompt": "say x"}, {"prompt": "def f(x):\n    ", "prefix": "def f(x):\n    "}):
        text = task["prompt"] if "prefix" in task else "say x\n"
        ids = common.encode_prompt(tokenizer, task)
        assert ids == tokenizer(text).input_ids
        bos = tokenizer.bos_token_id
        assert (bos is None and ids[0] != bos) or (ids[0] == bos and ids.count(bos) == 1)


def test_a_prompt_has_no_end_of_sequence_where_the_tokenizer_adds_one():
    tokenizer = wrapped(sentencepiece(False))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        special_tokens=[(t, tokenizer.convert_tokens_to_ids(t)) for t in (BOS, EOS)],
    )
    assert tokenizer("x\n").input_ids[-1] == tokenizer.eos_token_id
    ids = common.encode_prompt(tokenizer, {"prompt": "x"})
    assert ids == tokenizer("x\n").input_ids[:-1]


@pytest.mark.parametrize("text", [CODE, " x", "x", "", "  x", "ü = 1\n", " ü", "\n\n  x"])
def test_a_completion_comes_back_as_it_was_written(tokenizer, text):
    prompt = common.encode_prompt(tokenizer, {"prompt": "x"})
    ids = common.encode_completion(tokenizer, text)
    assert ids[-1] == tokenizer.eos_token_id
    assert common.decode(tokenizer, [ids]) == [text]
    whole = tokenizer.decode(prompt + ids, skip_special_tokens=True)
    assert whole == "x\n" + text


def test_a_completion_keeps_its_first_space_which_the_decoder_alone_drops():
    for kind in ("llama2", "metaspace"):
        tokenizer = KINDS[kind]()
        ids = tokenizer.convert_tokens_to_ids([SPACE * 4 + "r", "e", EOS])
        assert tokenizer.decode(ids, skip_special_tokens=True) != "    re"
        assert common.decode(tokenizer, [ids, ids[1:]]) == ["    re", "e"]


@pytest.mark.parametrize("kind", ["byte_level", "llama3", "micro"])
def test_byte_level_texts_are_decoded_and_encoded_as_ever(kind):
    tokenizer = KINDS[kind]()
    assert masking.space_context(tokenizer) == []
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(tokenizer), (200, 12), generator=generator).tolist()
    assert common.decode(tokenizer, rows) == tokenizer.batch_decode(rows, skip_special_tokens=True)
    for text in common.decode(tokenizer, rows):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert common.encode_text(tokenizer, text) == ids


def test_the_line_table_has_the_text_that_a_token_adds(tokenizer):
    table = masking.line_table(tokenizer)
    ids = common.encode_completion(tokenizer, CODE)
    pieces = [
        "".join(map(chr, table.codes[table.start[i] : table.start[i + 1]].tolist()))
        for i in ids[:-1]
    ]
    assert re.sub("ü|\ufffd+", "", "".join(pieces)) == CODE.replace("ü", "")


def test_a_stop_string_with_a_space_is_found_in_tokens_of_any_kind(tokenizer):
    ids = common.encode_text(tokenizer, "x\n  d = 1")
    table = masking.stop_table(masking.line_table(tokenizer), ["\n  d"])
    state = 0
    for i in ids:
        state = int(table[state, i])
    assert state == len(table) - 1


def test_the_chat_template_is_used_where_there_is_one_and_the_format_asks_for_it(chat):
    task = {"prompt": "say x"}
    text = "<|user|>\nsay x</s>\n<|assistant|>\n"
    shown = [
        chat.decode(common.encode_prompt(chat, task, PromptFormat(kind)))
        for kind in ("auto", "chat", "plain")
    ]
    assert shown == [text, text, "say x\n"]
    system = common.encode_prompt(chat, task, PromptFormat("auto", "Be brief."))
    assert chat.decode(system) == "<|system|>\nBe brief.</s>\n" + text
    prefilled = common.encode_prompt(chat, task, PromptFormat(prefill="Here:\n```python\n"))
    assert chat.decode(prefilled) == text + "Here:\n```python\n"


def test_a_format_that_the_tokenizer_cannot_have_is_one_line(chat):
    plain, task = byte_level(True), {"prompt": "x"}
    with pytest.raises(InputError, match=r"--prompt_format chat: .*no chat template"):
        common.encode_prompt(plain, task, PromptFormat("chat"))
    with pytest.raises(InputError, match=r"--system_prompt: .*no chat template"):
        common.encode_prompt(plain, task, PromptFormat("auto", "Be brief."))
    with pytest.raises(InputError, match="--system_prompt is for chats"):
        common.encode_prompt(chat, task, PromptFormat("plain", "Be brief."))
    refuses = byte_level(True)
    refuses.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}x"
    )
    with pytest.raises(InputError, match="chat template: no system role"):
        common.encode_prompt(refuses, task, PromptFormat("auto", "Be brief."))


def test_tags_that_are_special_tokens_stay_and_chat_markers_do_not(chat):
    text = "<think>\nplan\n</think>\n<answer>\nx = 1\n</answer>"
    ids = chat(f"{text}</s>\n<|assistant|>", add_special_tokens=False).input_ids
    assert set(chat.convert_tokens_to_ids(list(masking.TAGS))) < set(ids)
    (decoded,) = common.decode(chat, [[*ids, chat.pad_token_id, chat.eos_token_id]])
    assert decoded == text + "\n"
    assert common.reasoning_of(decoded) == "\nplan\n"
    # Lines by token ids are those of the text: the last one ends in "</answer>".
    ids = common.encode_completion(chat, text)
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    ended = masking.lines_ended(torch.tensor([ids]), mask, masking.line_table(chat))
    assert ended.sum() == 6 and ended[0, -2] == 1


@pytest.mark.parametrize("special_tags", [True, False])
def test_a_template_that_opens_the_reasoning_gives_the_format_its_due(chat, special_tags):
    tokenizer = chat
    if not special_tags:
        tokenizer = byte_level(True)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    before, tokenizer.chat_template = tokenizer.chat_template, OPENS_THINK
    try:
        opened = common.encode_prompt(tokenizer, {"prompt": "Write <think> and <answer>."})
    finally:
        tokenizer.chat_template = before
    assert common.opening_of(tokenizer, opened) == "<think>\n"
    text = "plan\n</think>\n<answer>\nx = 1\n</answer>\n"
    rollout = common.Rollout([opened], [[1]], [text], None, None, None, openings=("<think>\n",))
    assert common.reasoning_of(text) is None
    assert list(map(common.reasoning_of, rollout.judged_texts())) == ["\nplan\n"]
    closed = common.encode_prompt(tokenizer, {"prompt": "Write <think>."}, PromptFormat("plain"))
    assert common.opening_of(tokenizer, closed) == ""
    assert common.judged_text({"completion": text, "opening": "<think>\n"}) == "<think>\n" + text


def model_and_tokenizer(template: str | None = None):
    tokenizer = byte_level(True)
    tokenizer.chat_template = template
    return common.new_model(tokenizer, 32, 1, seed=0).eval(), tokenizer


def test_a_rollout_says_what_its_prompts_opened_and_ends_before_a_stop_string():
    policy, tokenizer = model_and_tokenizer(OPENS_THINK)
    prompts = [common.encode_prompt(tokenizer, {"prompt": p}) for p in ("x", "y")]
    free = common.roll_out(policy, tokenizer, prompts, 4, 24, 1.0, list(range(8)))
    assert free.openings == ("<think>\n",) * 8
    stop, calls = re.search(r".[ -~]{3}", "".join(free.texts[:2])).group()[1:], []
    stopped = common.roll_out(
        policy,
        tokenizer,
        prompts,
        4,
        24,
        1.0,
        list(range(8)),
        stops=(stop,),
        progress=lambda drawn, ended: calls.append((drawn, ended)),
    )
    for before, after, done in zip(free.texts, stopped.texts, stopped.terminated, strict=True):
        assert after == before.partition(stop)[0]
        assert done or stop not in before
    assert stopped.mask.sum() < free.mask.sum()
    assert sum(drawn for drawn, _ in calls) == stopped.mask.sum()
    assert sum(ended for _, ended in calls) == 8


def test_supervised_training_does_not_repeat_what_the_template_opened(tmp_path, monkeypatch):
    policy, tokenizer = model_and_tokenizer(OPENS_THINK)
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    text = "<think>\nplan\n</think>\n<answer>\nx = 1\n</answer>\n"
    common.write_jsonl(
        tmp_path / "rows.jsonl", [{"task_id": "a", "prompt": "x", "completion": text}]
    )
    seen, pad_pairs = [], common.pad_pairs

    def spy(prompts, completions):
        seen.extend(a + b for a, b in zip(prompts, completions, strict=True))
        return pad_pairs(prompts, completions)

    monkeypatch.setattr(common, "pad_pairs", spy)
    paths = (str(tmp_path / "rows.jsonl"), str(tmp_path / "sft"), str(tmp_path / "policy"))
    for kind in ("chat", "plain"):
        sft.main(sft.Config(paths[0], paths[1] + kind, paths[2], prompt_format=kind, max_steps=1))
    chat, plain = tokenizer.decode(seen[0]), tokenizer.decode(seen[-1])
    assert chat == f"<|user|>\nx</s>\n<|assistant|>\n{text}<|eos|>" and plain == f"x\n{text}<|eos|>"


PROGRAM = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    ("opening", "completion", "written"),
    [
        ("<think>\n", PROGRAM, "</think>\n\n" + PROGRAM),
        ("<think>", f"```python\n{PROGRAM}```", f"</think>\n\n```python\n{PROGRAM}```"),
        ("<think>\n", f"<think>\nx\n</think>{PROGRAM}", f"x\n</think>{PROGRAM}"),
        ("<think>\n", f"<think>Let me.</think>{PROGRAM}", f"Let me.</think>{PROGRAM}"),
        ("<think>", f"<think>\nx\n</think>{PROGRAM}", f"\nx\n</think>{PROGRAM}"),
        ("<think>\n\n", f"\n<think>\nx</think>{PROGRAM}", f"x</think>{PROGRAM}"),
        ("<think>\n", f"Let me.\n</think>{PROGRAM}", f"Let me.\n</think>{PROGRAM}"),
        ("", PROGRAM, PROGRAM),
        ("", f"<think>x</think>{PROGRAM}", f"<think>x</think>{PROGRAM}"),
    ],
)
def test_a_policy_that_writes_what_it_was_taught_under_an_opened_tag_has_its_program(
    opening, completion, written
):
    task = {"entry_point": "f"}
    assert common.after_opening(completion, opening) == written
    assert (opening + written).count("<think>") <= 1
    assert common.extract_program(task, opening + written).strip() == PROGRAM.strip()


def test_a_body_under_an_opened_tag_goes_on_from_its_prefix():
    row = {"completion": "return x\n", "prefix": "def f(x):\n    ", "entry_point": "f"}
    written = common.after_opening(row["completion"], "<think>\n", row["prefix"])
    assert common.extract_program(row, "<think>\n" + written) == PROGRAM


@pytest.fixture
def opens_think():
    """A reward model with a random head, and its tokenizer, whose template opens the thinking."""
    tokenizer = byte_level(True)
    tokenizer.chat_template = OPENS_THINK
    model = common.new_model(tokenizer, 32, 1, 0, num_labels=1).eval()
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(model.score.weight, generator=generator)
    return model, tokenizer


PREFIXED = {"prompt": "x", "prefix": "def f(x):\n"}
OPENED_ROWS = [  # a row and its text, the end of the prompt that is read, the text, the labels
    ({"prompt": "x"}, PROGRAM, "<think>\n</think>\n\n", PROGRAM, [1, -1]),
    (PREFIXED, "    return x\n", "<think>\n</think>", "    return x\n", [1]),
    (PREFIXED, f"```\n{PROGRAM}", "<think>\n</think>\n\n", f"```\n{PROGRAM}", [None, 1, -1]),
    ({"prompt": "x"}, "So.\n</think>a\n", "<think>\n", "So.\n</think>a\n", [None, 1]),
    ({"prompt": "x"}, "<think>\nSo.\n</think>a\n", "<think>\n", "So.\n</think>a\n", [None, 1]),
]


def test_a_reward_model_reads_a_program_where_a_policy_writes_it_behind_the_thinking(opens_think):
    model, tokenizer = opens_think
    given = [row for row, *_ in OPENED_ROWS], [text for _, text, *_ in OPENED_ROWS]
    rows = []
    for row, text, _, read, labels in OPENED_ROWS:
        gone = len(text.splitlines()) - len(read.splitlines())
        rows.append(row | {"text": text, "eos": False, "labels": [None] * gone + labels})
    common.encode_examples(tokenizer, rows)
    for row, (_, _, end, read, labels) in zip(rows, OPENED_ROWS, strict=True):
        prompt = tokenizer.decode(row["prompt_ids"])
        assert prompt == "<|user|>\nx</s>\n<|assistant|>\n" + end
        assert tokenizer.decode(row["text_ids"]) == read and row["labels"] == labels
    # Every reader reads the same: lines as in training, and a text at its end.
    with torch.no_grad():
        learned = common.logits_at(model, rows, common.line_table(tokenizer)).squeeze(-1)
        at_end = common.logits_at(model, rows, None).flatten()
    scores = common.score_text_lines(model, tokenizer, *given, 2)
    for found, expected, text, row in zip(scores, learned, given[1], rows, strict=True):
        assert len(found) == len(text.splitlines())
        assert found[-len(row["labels"]) :] == pytest.approx(
            expected[: len(row["labels"])].tolist()
        )
    found = common.score_texts(model, tokenizer, *given, 2, ended=[False] * len(rows))
    torch.testing.assert_close(found, at_end)


def test_an_outcome_row_goes_on_from_what_its_own_prompt_opened(opens_think, tmp_path):
    row = {"task_id": "t", "prompt": "x", "completion": "I am cut o", "status": "failed"}
    cut_off = row | {"opening": "<think>\n", "terminated": False}
    common.write_jsonl(tmp_path / "rows.jsonl", [cut_off, row | {"completion": PROGRAM}])
    examples = common.read_outcomes(str(tmp_path / "rows.jsonl"))
    common.encode_examples(opens_think[1], examples)
    read = [opens_think[1].decode(row["prompt_ids"] + row["text_ids"]) for row in examples]
    shown = "<|user|>\nx</s>\n<|assistant|>\n<think>\n"
    assert read == [shown + "I am cut o", f"{shown}</think>\n\n{PROGRAM}<|eos|>"]


def test_a_reasoning_of_a_pair_stands_in_the_thinking_that_the_prompt_opens(opens_think, tmp_path):
    row = {"task_id": "t", "prompt": "x", "chosen": "a\n", "rejected": "b\n"}
    common.write_jsonl(tmp_path / "pairs.jsonl", [row])
    examples = common.read_pairs(str(tmp_path / "pairs.jsonl"))
    common.encode_examples(opens_think[1], examples)
    assert opens_think[1].decode(examples[0]["prompt_ids"]).endswith("<think>\n")


def test_a_prm_without_a_template_reads_the_tag_that_the_policy_s_prompt_has(monkeypatch):
    policy, own = byte_level(True), KINDS["micro"]()
    model = common.new_model(own, 32, 1, 0, num_labels=1).eval()
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    text = f"plan\n</think>\n{PROGRAM}"
    ids = torch.tensor([common.encode_text(policy, text)])
    tasks = ({"task_id": "t", "prompt": "x", "entry_point": "f"},)
    rollout = common.Rollout(
        [[]],
        ids.tolist(),
        [text],
        ids,
        ids >= 0,
        None,
        torch.tensor([False]),
        tasks,
        ("<think>\n",),
    )
    config, table = ppo.Config("", "", ""), masking.line_table(policy)
    prm = common.RewardModel(model, own, False)
    found = common.score_lines(prm, rollout, None, table, config)
    texts = rollout.judged_texts()
    (expected,) = common.score_text_lines(model, own, list(tasks), texts, 1)
    assert found[found != 0].tolist() == pytest.approx(expected[3:])
    outcome = common.score_outcomes(prm, rollout, None, config)
    assert outcome.tolist() == pytest.approx(expected[-1:])


def test_pairs_of_programs_close_what_the_prompt_opens(opens_think):
    tokenizer = opens_think[1]
    row = {"prompt": "x", "chosen": "a = 1\n", "rejected": "a = 2\n"}
    prompt, *texts = dpo.encode_pair(tokenizer, row | {"complete": False})
    closed = "<|user|>\nx</s>\n<|assistant|>\n<think>\n</think>\n\na = "
    assert tokenizer.decode(prompt + texts[0]) == closed + "1\n"
    assert tokenizer.decode(prompt).startswith(closed[: closed.index("a =")])
    prompt, *texts = dpo.encode_pair(tokenizer, row)
    assert tokenizer.decode(prompt + texts[1]) == closed + "2\n<|eos|>"
    prompt, chosen, _ = dpo.encode_pair(tokenizer, row | {"chosen": "So.</think>a"})
    assert tokenizer.decode(chosen) == "So.</think>a<|eos|>"


def test_nucleus_sampling_draws_from_the_likeliest_tokens_by_their_own_log_probs():
    probs = torch.tensor([0.1, 0.4, 0.2, 0.3])
    uniform = torch.linspace(0, 1, 2001, dtype=torch.float64)[:-1]
    logits = probs.log().expand(2000, 4)
    token, logprob = draws.draw(logits, 1.0, uniform, top_p=0.65)
    share = torch.bincount(token, minlength=4) / 2000
    assert torch.allclose(share, torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=2e-3)
    assert torch.allclose(logprob.exp(), torch.tensor([0, 4 / 7, 0, 3 / 7])[token])
    everything = draws.draw(logits, 1.0, uniform)
    assert all(
        torch.equal(a, b)
        for a, b in zip(everything, draws.draw(logits, 1.0, uniform, 1.0), strict=True)
    )
    assert (draws.draw(logits, 1.0, uniform, 1e-9)[0] == 1).all()  # at least one token
    policy, _ = model_and_tokenizer()
    with pytest.raises(ValueError, match="top_p"):
        sampling.sample(policy, [[5]], 1, 2, 1.0, [1], [0], top_p=0.0)


def test_a_reward_model_is_read_in_the_format_that_it_was_trained_with(tmp_path):
    policy, tokenizer = model_and_tokenizer(CHATML)
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    rows = [
        {
            "task_id": f"t{i}",
            "prompt": "count",
            "completions": ["a\n", "b\n"],
            "labels": [1.0, -1.0],
        }
        for i in range(12)
    ]
    common.write_jsonl(tmp_path / "prm.jsonl", rows)
    flags = {"max_steps": 1, "train_batch_size": 2, "eval_fraction": 0.3}
    for kind, system in (("plain", None), ("auto", "Be brief.")):
        paths = (str(tmp_path / "prm.jsonl"), str(tmp_path / kind), str(tmp_path / "policy"))
        config = train_prm.Config(*paths, prompt_format=kind, system_prompt=system, **flags)
        train_prm.main(config)
    saved = json.loads((tmp_path / "auto" / "config.json").read_text())
    assert (saved["prompt_format"], saved["system_prompt"]) == ("chat", "Be brief.")
    for kind in ("plain", "auto"):
        model = common.load_scorer(tmp_path / kind).eval()
        torch.nn.init.ones_(common.head_of(model).weight)
        shown = PromptFormat("plain") if kind == "plain" else PromptFormat("chat", "Be brief.")
        assert common.prompt_format_of(model.config) == shown
        ids = common.encode_prompt(tokenizer, {"prompt": "count"}, shown)
        ids += tokenizer("a\nb\n").input_ids
        score = common.score_texts(model, tokenizer, [{"prompt": "count"}], ["a\nb\n"], 1)
        expected = common.scores_of(model, torch.tensor([ids]))[:, -1]
        assert torch.equal(score, expected)


def test_a_pair_is_encoded_in_the_format_that_the_flags_ask_for(chat):
    row = {"prompt": "x", "chosen": "a\n", "rejected": "b\n"}
    prompt, chosen, _ = dpo.encode_pair(chat, row, PromptFormat("plain"))
    assert chat.decode(prompt) == "x\n" and chat.decode(chosen[:-1]) == "a\n"
    assert chat.decode(dpo.encode_pair(chat, row)[0]) == "<|user|>\nx</s>\n<|assistant|>\n"


# The protocols, word for word.

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": '\ndef f(x):\n    """One more."""\n',
    "prefix": "p",
}
MBPP = {"task_id": "Mbpp/2", "prompt": '"""\nOne more.\nassert f(1) == 2\n"""\n'}


def choose(name, tokenizer, tasks, *form):
    return protocols.choose(name, PromptFormat(*form), tokenizer, tasks)


def test_evalplus_in_a_chat(chat):
    protocol = choose("evalplus", chat, [HUMANEVAL])
    assert chat.decode(protocol.encode(chat, HUMANEVAL)) == (
        "<|user|>\n"
        "Please provide a self-contained Python script that solves the following problem in a "
        'markdown code block:\n```\ndef f(x):\n    """One more."""\n```\n</s>\n'
        "<|assistant|>\n"
        "Below is a Python script with a self-contained function that solves the problem and "
        "passes corresponding tests:\n```python\n"
    )
    assert protocol.stops == (
        "<|endoftext|>",
        "<|endofmask|>",
        "</s>",
        "\nif __name__",
        "\ndef main(",
        "\nprint(",
        "\n```\n",
    )
    answer = common.cut_at("def f(x):\n\treturn x\n```\nIt adds.", protocol.stops)
    assert protocol.solution(HUMANEVAL, "", answer).strip() == "def f(x):\n    return x"


def test_bigcodebench(chat):
    complete = HUMANEVAL | {"task_id": "BigCodeBench/0", "prefix": HUMANEVAL["prompt"]}
    instruct = {"prompt": "Add one.\nBegin with:\n```\nimport os\n```\n"}
    protocol = choose("bigcodebench", chat, [complete])
    assert protocol.stops == (*protocols.EVALPLUS_STOPS, "\n```\n")
    evalplus = choose("evalplus", chat, [complete])
    assert protocol.encode(chat, complete) == evalplus.encode(chat, complete)
    assert chat.decode(choose("bigcodebench", chat, [instruct]).encode(chat, instruct)) == (
        "<|user|>\n"
        "Please provide a self-contained Python script that solves the following problem in a "
        "markdown code block:\nAdd one.\nBegin with:\n```\nimport os\n```\n</s>\n"
        "<|assistant|>\n"
        "Below is a Python script with a self-contained function that solves the problem and "
        "passes corresponding tests:\n```python\n"
    )
    plain = choose("bigcodebench", chat, [complete], "plain")
    assert plain.stops == protocols.EVALPLUS_STOPS + protocols.HUMANEVAL_STOPS
    assert plain.encode(chat, complete) == chat(HUMANEVAL["prompt"].lstrip()).input_ids
    with pytest.raises(InputError, match="instruct tasks in a chat"):
        choose("bigcodebench", chat, [instruct], "plain")


@pytest.mark.parametrize("form", ["auto", "plain"])
def test_evalplus_as_a_completion(chat, form):
    tokenizer = byte_level(True) if form == "auto" else chat
    first, second = (choose("evalplus", tokenizer, [task], form) for task in (HUMANEVAL, MBPP))
    assert (
        first.encode(tokenizer, HUMANEVAL)
        == tokenizer('def f(x):\n    """One more."""\n').input_ids
    )
    assert second.encode(tokenizer, MBPP) == tokenizer(MBPP["prompt"]).input_ids
    assert first.stops[6:] == ("\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")
    assert second.stops[6:] == ('\n"""', "\nassert")
    assert first.stops[:6] == second.stops[:6] == protocols.EVALPLUS_STOPS
    task = HUMANEVAL | {"prefix": HUMANEVAL["prompt"]}
    whole = HUMANEVAL["prompt"].strip() + "\n    return x"
    assert first.solution(task, "", "\treturn x") == whole


def test_mbpp_with_three_examples(chat, benchmark_data):
    from benchmarks import mbpp

    path = str(benchmark_data / "mbpp" / "mbpp.jsonl")
    splits = mbpp.make(mbpp.Config("", path))
    shots = {task["task_id"]: task for task in splits["prompt"]}
    task = splits["test"][0]
    protocol = choose("mbpp", chat, [task])
    text = chat.decode(protocol.encode(chat, task))

    def bare(text):  # the published rows have blanks at the ends of lines
        return "\n".join(line.rstrip() for line in text.split("\n"))

    rows = [shots[f"mbpp/{number}"] for number in (2, 3, 4)]
    examples = [f"{r['prompt'].strip()}\n[BEGIN]\n{r['solution']}[DONE]\n\n" for r in rows]
    assert text == bare("".join(examples)) + task["prompt"].strip() + "\n[BEGIN]\n"
    assert task["prompt"].startswith("You are an expert Python programmer, and here is your task: ")
    assert common.cut_at("x = 1\n[DONE]\n\nYou", protocol.stops) == "x = 1\n"
    assert protocol.solution(task, "", "x = '```\n'\n") == "x = '```\n'\n"
    with pytest.raises(InputError, match="plain prompt"):
        choose("mbpp", chat, [task], "chat")


def test_livecodebench(chat):
    task = {"prompt": "Add.", "meta": {}}
    protocol = choose("livecodebench", chat, [task])
    assert chat.decode(protocol.encode(chat, task)) == (
        "<|system|>\nYou are an expert Python programmer. You will be given a question (problem "
        "specification) and will generate a correct Python program that matches the specification "
        "and passes all tests.</s>\n<|user|>\n### Question:\nAdd.\n\n### Format: Read the inputs "
        "from stdin solve the problem and write the answer to stdout (do not directly test on the "
        "sample inputs). Enclose your code within delimiters as follows. Ensure that when the "
        "python program runs, it reads the inputs, runs the algorithm and writes output to "
        "STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n### Answer: (use the provided format with "
        "backticks)\n\n</s>\n<|assistant|>\n"
    )
    started = protocols.livecodebench_question(task | {"meta": {"starter_code": "class S:"}})
    assert (
        "### Format: You will use the following starter code to write the solution to the problem "
        "and enclose your code within delimiters.\n```python\nclass S:\n```\n\n### Answer"
        in started
    )
    assert protocol.stops == ("###",)
    text = "```bash\nls\n```\nand\n```python\nx = 1\ny = 2\n```\nso"
    assert protocol.solution(task, "", text) == "x = 1\ny = 2"
    assert protocol.solution(task, "", "x = 1\n```\n") == ""
    with pytest.raises(InputError, match="is a chat"):
        choose("livecodebench", chat, [task], "plain")
    with pytest.raises(InputError, match=r"--protocol livecodebench is .* no chat template"):
        choose("livecodebench", byte_level(True), [task])


def test_without_a_protocol_prompts_and_programs_are_those_of_training(chat):
    task = {"prompt": "x", "prefix": "def f():\n"}
    protocol = choose("none", chat, [task], "plain")
    assert protocol.stops == () and protocol.encode(chat, task) == chat("x").input_ids
    assert protocol.solution(task, "", "\tpass") == "def f():\n\tpass"


def test_what_a_protocol_asks_is_checked_before_a_file_is_written(tmp_path):
    policy, tokenizer = model_and_tokenizer()
    policy.save_pretrained(tmp_path / "unlimited")
    size = {"n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 400}
    config = transformers.GPT2Config(**size, vocab_size=len(tokenizer))
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    for name in ("gpt2", "unlimited"):
        tokenizer.save_pretrained(tmp_path / name)
    task = {"entry_point": "f", "style": "call", "tests": [{"args": [1], "output": 2}]}
    common.write_jsonl(tmp_path / "tasks.jsonl", [MBPP | task])

    def flags(model, **more):
        return evaluation.Config(
            tasks=str(tmp_path / "tasks.jsonl"),
            output_dir=str(tmp_path / "run"),
            model_name_or_path=str(tmp_path / model),
            **more,
        )

    protocols.check(flags("gpt2"), [MBPP])
    protocols.check(flags("unlimited", protocol="mbpp"), [MBPP])
    for model, more, message in (
        ("gpt2", {"protocol": "mbpp"}, r"a text may have \d+ tokens; beyond 400 it has no"),
        ("gpt2", {"max_completion_length": 400}, "beyond 400"),
        ("unlimited", {"protocol": "livecodebench"}, "--protocol livecodebench is a chat"),
        ("unlimited", {"system_prompt": "Be brief."}, "--system_prompt: .*no chat template"),
    ):
        with pytest.raises(InputError, match=message):
            evaluation.main(flags(model, **more))
    assert not (tmp_path / "run").exists()


def test_an_evaluation_follows_its_protocol(tmp_path, monkeypatch):
    policy, tokenizer = model_and_tokenizer(OPENS_THINK)
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    task = {"entry_point": "f", "style": "call", "tests": [{"args": [1], "output": 2}]}
    common.write_jsonl(tmp_path / "tasks.jsonl", [HUMANEVAL | task])
    seen = []
    roll_out = common.roll_out

    def spy(*arguments, **keywords):
        seen.append((tokenizer.decode(arguments[2][0]), *arguments[7:9]))
        return roll_out(*arguments, **keywords)

    monkeypatch.setattr(common, "roll_out", spy)
    for protocol in ("evalplus", "none"):
        config = evaluation.Config(
            tasks=str(tmp_path / "tasks.jsonl"),
            output_dir=str(tmp_path / protocol),
            model_name_or_path=str(tmp_path / "policy"),
            num_samples=3,
            max_completion_length=8,
            protocol=protocol,
            top_p=0.9,
        )
        evaluation.main(config)
    (chat_prompt, top_p, stops), (own_prompt, _, no_stops) = seen
    assert chat_prompt.endswith("corresponding tests:\n```python\n") and top_p == 0.9
    assert "\n```\n" in stops and no_stops == ()
    assert own_prompt.endswith("<think>\n")
    rows = common.read_jsonl(tmp_path / "none" / "samples.jsonl", {})
    assert [row["opening"] for row in rows] == ["<think>\n"] * 3
    rows = common.read_jsonl(tmp_path / "evalplus" / "samples.jsonl", {})
    assert all("opening" not in row and "Below is" not in row["solution"] for row in rows)
