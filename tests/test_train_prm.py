"""Reward models: where the score is read, what the report says, which rows are refused."""

import itertools
import random

import pytest
import torch
import transformers

import common
import train_prm
from common import InputError
from kernels import masking


def naive_auc(scores, positive):
    pairs = [
        (s, t) for (s, p), (t, q) in itertools.product(zip(scores, positive, strict=True), repeat=2) if p and not q
    ]
    return sum((s > t) + 0.5 * (s == t) for s, t in pairs) / len(pairs)


def test_auc_is_the_share_of_ordered_pairs_and_ties_count_half():
    rng = random.Random(0)
    for _ in range(50):
        n = rng.randint(2, 30)
        positive = [True, False] + [rng.random() < 0.4 for _ in range(n - 2)]
        scores = [rng.randint(0, 5) / 5 for _ in range(n)]
        assert train_prm.auc(torch.tensor(scores), torch.tensor(positive)) == pytest.approx(naive_auc(scores, positive))
    assert torch.tensor(train_prm.auc(torch.tensor([1.0, 2.0]), torch.tensor([True, True]))).isnan()


def test_the_report_compares_with_the_majority_over_all_and_over_changed_lines():
    scores = torch.tensor([0.9, 0.8, -0.1, 0.2, -0.5])
    labels = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    changed = torch.tensor([False, False, True, True, True])
    report = train_prm.evaluate_lines(scores, labels, changed)
    assert report["eval_accuracy"] == pytest.approx(3 / 5) and report["eval_majority"] == pytest.approx(3 / 5)
    assert report["eval_changed_accuracy"] == pytest.approx(1 / 3)
    assert report["eval_changed_majority"] == pytest.approx(2 / 3)
    assert report["eval_auc"] == pytest.approx(5 / 6) and report["eval_changed_auc"] == pytest.approx(1 / 2)
    assert report["eval_loss"] == pytest.approx(float((scores - labels).square().mean()))


class PositionScorer(torch.nn.Module):
    """Gives each token its position in the row as score."""

    def forward(self, input_ids):
        scores = torch.arange(input_ids.shape[1], dtype=torch.float32).expand(input_ids.shape)
        return transformers.modeling_outputs.TokenClassifierOutput(logits=scores[..., None])


def test_a_line_s_score_is_read_at_the_token_that_ends_it_and_a_text_s_at_its_last():
    lines = ["def f(x):\n", "    # why\n", "\n", "    return x + 1\n", "    # no newline at the end"]
    text = "".join(lines)
    tokenizer = common.new_tokenizer([text * 3], 320)
    table = masking.line_table(tokenizer)
    prompts = [tokenizer("add one\n").input_ids, tokenizer("a\n").input_ids]
    texts = [tokenizer(text).input_ids, tokenizer(lines[0]).input_ids]
    scores = train_prm.score_lines(PositionScorer(), prompts, texts, 5, table)  # (2, 5)
    read = ""
    for line, position in zip(lines, scores[0].long().tolist(), strict=True):
        read += line
        assert tokenizer.decode((prompts[0] + texts[0])[len(prompts[0]) : position + 1]).startswith(read)
        assert tokenizer.decode((prompts[0] + texts[0])[len(prompts[0]) : position]) != read
    assert scores[1, 0] == len(prompts[1]) + len(texts[1]) - 1
    assert train_prm.score_last(PositionScorer(), prompts, texts).tolist() == [
        len(p) + len(t) - 1 for p, t in zip(prompts, texts, strict=True)
    ]


def test_later_lines_never_change_the_score_of_earlier_ones():
    texts = ["a = 1\nb = 2\n", "a = 1\nb = 3\nc = a\n"]
    tokenizer = common.new_tokenizer(texts * 5, 300)
    model = common.new_model(tokenizer, 32, 2, seed=0, num_labels=1).eval()
    table = masking.line_table(tokenizer)
    prompt = tokenizer("p\n").input_ids
    scores = train_prm.score_lines(
        model, [prompt] * 2, [tokenizer(text).input_ids for text in texts], 2, table
    ).detach()
    assert scores[0, 0] == pytest.approx(scores[1, 0].item(), abs=1e-6)
    assert scores[0, 1] != pytest.approx(scores[1, 1].item(), abs=1e-6)


GOOD = {"task_id": "t", "prompt": "p", "completions": ["a = 1\n", "b = 2\n"], "labels": [1, None]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [1]}, "field 'labels' has 1 labels for the 2 lines of field 'completions'"),
        ({"labels": [None, None]}, "field 'labels' has no label"),
        ({"labels": [1, "x"]}, "field 'labels': item 1 must be a number or null"),
        ({"completions": ["a = 1", "b = 2\n"]}, "field 'completions': item 0 must be one line"),
        ({"completions": ["a = 1\nb\n", "b = 2\n"]}, "field 'completions': item 0 must be one line"),
        ({"completions": ["a = 1\n", 3]}, "field 'completions': item 1 must be one line"),
        ({"prompt": None}, "field 'prompt' must be str, got null"),
    ],
)
def test_lines_and_labels_that_do_not_fit_are_refused_by_place(tmp_path, change, message):
    common.write_jsonl(tmp_path / "prm.jsonl", [GOOD, GOOD | change])
    with pytest.raises(InputError, match=r"prm.jsonl:2: " + message):
        train_prm.read_rows(train_prm.Config(data=str(tmp_path / "prm.jsonl"), output_dir=""))


def test_a_tokenizer_that_loses_newlines_is_refused():
    tokenizer = common.new_tokenizer(["a = 1\nb = 2\n"] * 5, 300)
    table = masking.line_table(tokenizer)
    config = train_prm.Config(data="prm.jsonl", output_dir="")
    row = GOOD | {"labels": [1, -1]}
    kept, lost = tokenizer("a = 1\nb = 2\n").input_ids, tokenizer("a = 1 b = 2 ").input_ids
    train_prm.check_lines_have_tokens(config, [row], [([1], kept)], table)
    with pytest.raises(InputError, match=r"prm\.jsonl:2: line 1 of field 'completions' ends in no token"):
        train_prm.check_lines_have_tokens(config, [row, row], [([1], kept), ([1], lost)], table)
