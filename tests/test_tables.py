"""The README's tables come from the run folders."""

import json
import sys
from pathlib import Path

import pytest

import common
from benchmarks import micro

sys.path.insert(0, str(Path(__file__).parent.parent / "reproduce"))
import tables


def write_report(folder, **report):
    common.write_text(folder / "report.json", json.dumps(report))


def rows_of(text):
    """The cells of a printed table by the first cell of each row."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return {row[0]: row[1:] for row in rows}


def test_students_quantile_is_exact_for_any_degrees_of_freedom():
    # R: qt(0.975, degrees)
    published = {
        1: 12.706204736174698,
        2: 4.302652729749464,
        3: 3.182446305284263,
        4: 2.776445105197793,
        5: 2.570581835636314,
        10: 2.228138851964939,
        30: 2.042272456301238,
        120: 1.979930405082436,
        1000: 1.962339080826407,
    }
    for degrees, quantile in published.items():
        assert abs(common.student_quantile(degrees) - quantile) < 1e-9
    assert abs(common.student_quantile(4, 0.99) - 4.604094871349993) < 1e-9
    assert abs(common.student_quantile(10_000) - 1.959963984540054) < 3e-4  # the normal one
    values = [float(i) for i in range(12)]  # standard deviation sqrt(13), 11 degrees of freedom
    assert tables.half_interval(values) == pytest.approx(2.200985160082949 * (13 / 12) ** 0.5)


def test_arms_come_as_words_or_as_the_lines_that_train_them():
    lines = """
ppo-tests | PPO, tests          | ppo
dpo       | DPO, 7.5k=7500      | dpo --pairs response
shown     | K = 8, another's    |
"""
    arms = tables.read_arms([lines, "last=Last = 2 + x", "told=Told=12"])
    assert arms == {
        "ppo-tests": ("PPO, tests", None),
        "dpo": ("DPO, 7.5k", 7500),
        "shown": ("K = 8, another's", None),
        "last": ("Last = 2 + x", None),
        "told": ("Told", 12),
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["seeds", "MISSING", "a", "a=A"], "MISSING: no such folder"),
        (["micro", "MISSING"], "MISSING: no such folder"),
        (["labels", "MISSING", "K=x"], "MISSING: no such file"),
        (["hack", "FOLDER", "arm"], "expected NAME=LABEL or lines"),
        (["gains", "FOLDER", "a=A"], "expected FIRST:SECOND=LABEL, got 'a=A'"),
        (["curves", "FOLDER", "nothing", "a=A"], "a's metrics.jsonl has no values of 'nothing'"),
        (["recode", "TASKS", "FOLDER", "b", "a=A"], "b is not one of the arms a"),
    ],
)
def test_bad_input_is_one_line(tmp_path, argv, message):
    common.write_jsonl(tmp_path / "FOLDER" / "0" / "a" / "metrics.jsonl", [{"step": 1}])
    common.write_text(tmp_path / "FOLDER" / "0" / "a" / "config.json", "{}")
    common.write_jsonl(tmp_path / "TASKS", [{"task_id": "t", "prompt": "p"}])
    paths = [str(tmp_path / word) if word.isupper() else word for word in argv]
    with pytest.raises(SystemExit) as error:
        tables.main(paths)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_table_quotes_the_reports_and_the_budgets(tmp_path, capsys):
    cell = {"pass@1": 0.5, "low": 0.4, "high": 0.6, "tasks": 10}
    policies = ["sft", "grpo-tests", "ppo-tests", "ppo-prm", "sft-references"]
    for number, name in enumerate([*policies, "prm"]):
        folder = tmp_path / name
        folder.mkdir()
        rows = [
            {"step": 1, "step_time": 30.0},
            {"step": 2, "step_time": 60.0, **({"episode": 256} if number else {})},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        report = {
            "tasks": 20,
            "samples": 80,
            "pass@1": number / 10,
            "low": 0.0,
            "high": 1.0,
            "by_steps": {"2": cell, "8": cell},
        }
        (tmp_path / f"eval-{name}").mkdir()
        (tmp_path / f"eval-{name}" / "report.json").write_text(json.dumps(report))
    report = {"eval_accuracy": 0.9, "eval_majority": 0.6, "eval_auc": 0.95, "eval_lines": 123}
    (tmp_path / "prm" / "report.json").write_text(json.dumps(report))
    tables.main(["micro", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| policy | 2 steps | 8 steps | all | RL samples | minutes |"
    assert (
        lines[4] == "| SFT | 0.50 [0.40, 0.60] | 0.50 [0.40, 0.60] | 0.00 [0.00, 1.00] | 0 | 1.5 |"
    )
    assert lines[7] == (
        "| PPO, test reward + PRM | 0.50 [0.40, 0.60] | 0.50 [0.40, 0.60] | 0.30 [0.00, 1.00] "
        "| 256 | 1.5 |"
    )
    assert "AUC 0.950, over 123 lines" in lines[-1]


def test_differences_between_arms_are_paired_seed_by_seed(tmp_path, capsys):
    for seed, (a, b) in enumerate([(0.2, 0.3), (0.4, 0.5), (0.6, 0.7)]):
        for arm, value in (("base", a), ("other", b)):
            write_report(
                tmp_path / str(seed) / f"eval-{arm}",
                tasks=10,
                samples=40,
                by_steps={"8": {"pass@1": value}},
                **{"pass@1": value},
            )
        common.write_jsonl(
            tmp_path / str(seed) / "base" / "metrics.jsonl",
            [{"step": 1, "episode": 64, "rewards/tests/mean": a}],
        )
    tables.main(["seeds", str(tmp_path), "base", "base=Base", "other=Other=99"])
    rows = rows_of(capsys.readouterr().out)
    assert rows["arm"] == ["all", "all, against Base", "RL samples", "train"]
    assert rows["Base"] == [
        "0.400 ± 0.497",
        "",
        "64",
        "0.400 ± 0.497",
    ]  # one length: no columns by steps
    assert rows["Other"] == ["0.500 ± 0.497", "+0.100 ± 0.000", "99"]


def test_a_seed_that_lacks_an_arm_is_left_out_of_the_table_and_none_left_is_an_error(
    tmp_path, capsys
):
    for seed, arms in enumerate((["base", "other"], ["base"], ["base", "other"])):
        for arm in arms:
            steps = {"2": {"pass@1": seed / 10}, "8": {"pass@1": seed / 20}}
            write_report(
                tmp_path / str(seed) / f"eval-{arm}",
                tasks=1,
                samples=1,
                by_steps=steps,
                **{"pass@1": 0.1},
            )
    tables.main(["seeds", str(tmp_path), "base", "other=Other"])
    printed = capsys.readouterr().out
    assert "2 seeds" in printed and rows_of(printed)["Other"][0] == "0.100 ± 1.271"  # seeds 0 and 2
    with pytest.raises(SystemExit, match="no seed has all of"):
        tables.main(["seeds", str(tmp_path), "base", "third=Third"])


def test_the_budget_counts_what_the_labels_behind_an_arm_s_prm_have_cost(tmp_path, capsys):
    report = {"responses": 30, "completions": 400}
    common.write_text(tmp_path / "0" / "search.report.json", json.dumps(report))
    search = [{"task_id": name} for name in ("a", "b", "b")]
    common.write_jsonl(tmp_path / "0" / "search.jsonl", search)
    # Two policies of the run with tests alone have written what was labelled: its 80 samples.
    policies = [str(tmp_path / "0" / "plain" / "checkpoint-9"), str(tmp_path / "0" / "plain")]
    flags = {"model_name_or_path": policies}
    common.write_jsonl(tmp_path / "0" / "search.jsonl.progress", [flags, {"policy": 0}])
    common.write_text(
        tmp_path / "0" / "prm" / "run_config.json",
        json.dumps({"data": str(tmp_path / "0" / "search.jsonl")}),
    )
    prm_folder = str(tmp_path / "0" / "prm")
    verdicts = tmp_path / "0" / "verdicts.jsonl"
    common.write_jsonl(verdicts, [{"task_id": "a", "status": "failed"}] * 50)
    orm_folder = str(tmp_path / "0" / "orm")
    flags = json.dumps({"data": str(verdicts)})
    common.write_text(tmp_path / "0" / "orm" / "run_config.json", flags)
    arms = {"plain": None, "dense": prm_folder, "two": [prm_folder, prm_folder], "outcome": None}
    for arm, prm in arms.items():
        run, orm = tmp_path / "0" / arm, orm_folder if arm == "outcome" else None
        common.write_text(run / "run_config.json", json.dumps({"prm": prm, "orm": orm}))
        refreshed = {"label_samples": 7} if prm else {}
        # Of 20 batches of 4 samples, the base arm's last ten pass at .5; the others' first do after
        # 15.
        rates = [0.0] * 10 + [0.5] * 10 if prm is None else [0.0] * 10 + [1.0] * 10
        log = [
            {"step": i, "episode": 4 * i, "rewards/tests/mean": rate}
            for i, rate in enumerate(rates, 1)
        ]
        common.write_jsonl(run / "metrics.jsonl", [*log[:-1], log[-1] | refreshed])
        statuses = {
            "a": ["failed", "passed"],
            "b": ["failed"] * 2,
            "c": ["passed"] * 2,
            "d": ["error"],
        }
        common.write_jsonl(
            run / "completions.jsonl",
            [{"task_id": t, "status": x} for t, each in statuses.items() for x in each],
        )
        write_report(tmp_path / "0" / f"eval-{arm}", solved=0.25)
        common.write_text(
            tmp_path / "0" / f"eval-{arm}" / "run_config.json", json.dumps({"num_samples": 4})
        )
    tables.main(["budget", str(tmp_path), *(f"{arm}={arm.title()}" for arm in arms)])
    printed = capsys.readouterr().out
    assert printed.endswith("Plain: first at its own last pass rate after 80 of its 80 samples\n")
    rows = rows_of(printed)
    assert rows["arm"][-1] == "held-out tasks solved, best of 4"
    rates = ["0.500 ± nan", "0.250 ± nan"]
    assert rows["Plain"] == ["80", "80 ± nan", "0", "0", "0", *rates]
    assert rows["Dense"] == ["80", "60 ± nan", "517", "80", "2", *rates]
    assert rows["Outcome"][2:5] == ["50", "50", "1"]  # a sample and a program for each verdict
    # An ensemble: the labels of each PRM, the refreshed ones once.
    assert rows["Two"][2:5] == ["1,027", "160", "2"]
    # Without the file that says whose samples were labelled a number would be too small.
    (tmp_path / "0" / "search.jsonl.progress").unlink()
    with pytest.raises(SystemExit, match=r"search\.jsonl\.progress: no such file"):
        tables.main(["budget", str(tmp_path), *(f"{arm}={arm.title()}" for arm in arms)])


def test_the_plans_of_an_arm_are_compared_with_the_references(tmp_path, capsys):
    tasks = [
        {"task_id": f"t{i}", "prompt": "p", "meta": {"plan": ["add 1", "sort"]}} for i in range(2)
    ]
    common.write_jsonl(tmp_path / "test.jsonl", tasks)
    tokenizer = common.new_tokenizer(
        ["add 1 sort handle this step <think> </think> <answer> x </answer>"], 300
    )
    common.save_model(common.new_model(tokenizer, 16, 1, 0), tokenizer, tmp_path / "policy")
    texts = {
        "base": ["add 1\nsort", "add 1\nhandle this step"],
        "other": ["sort\nadd 1", "add 1\nsort"],
    }
    for arm, plans in texts.items():
        folder = tmp_path / "0" / f"eval-{arm}"
        completions = [f"<think>\n{plan}\n</think>\n<answer>\nx\n</answer>\n" for plan in plans]
        common.write_jsonl(
            folder / "samples.jsonl",
            [{"task_id": f"t{i}", "completion": c} for i, c in enumerate(completions)],
        )
        write_report(folder, **{"pass@1": 0.5 if arm == "base" else 0.25})
        common.write_text(
            folder / "run_config.json", json.dumps({"model_name_or_path": str(tmp_path / "policy")})
        )
        names = {"mean": 0.5, "passed": None if arm == "other" else 0.75, "failed": 0.25}
        common.write_jsonl(
            tmp_path / "0" / arm / "metrics.jsonl",
            [{"step": 1} | {f"rewards/reasoning/{k}": v for k, v in names.items()}],
        )
    arms = ["base=Base", "other=Other", "other:base"]
    tables.main(["recode", str(tmp_path / "test.jsonl"), str(tmp_path), "base", *arms])
    printed = capsys.readouterr().out
    assert "pass@1 of 'Other' minus that of 'Base': -0.250" in printed
    rows = rows_of(printed)
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in completions) / 2
    assert rows["reward"] == [
        "pass@1",
        "against Base",
        "plan accuracy",
        "vague",
        "tokens",
        "R_proc",
        "R_proc, passing",
        "R_proc, failing",
    ]
    assert [cell.split(" ±")[0] for cell in rows["Base"]][:4] == ["0.500", "", "0.750", "0.250"]
    assert [cell.split(" ±")[0] for cell in rows["Other"]] == [
        "0.250",
        "-0.250",
        "0.500",
        "0.000",
        f"{tokens:.3f}",
        "0.500",
        "",
        "0.250",
    ]


def test_of_many_contrasts_those_are_shown_whose_t_is_beyond_holm_s_quantile():
    # t of 4 seeds is the mean by s / 2, here with s = 1. From any table of Student's t, 3 degrees:
    # P(|T| < t) is 0.975 at 4.177 (of two contrasts) and 0.95 at 3.182 (of the one that is left).
    def of(t):
        return [t / 2 - 0.75**0.5, t / 2 + 0.75**0.5] * 2

    assert tables.shown_together({"a": of(4.3), "b": of(3.2)}) == ["a", "b"]
    assert tables.shown_together({"a": of(4.1), "b": of(3.2)}) == []
    assert tables.shown_together({"a": of(4.3), "b": of(3.1)}) == ["a"]
    assert tables.shown_together({"a": of(-4.3), "b": of(9)[:2]}) == ["a"]  # b lacks seeds
    assert tables.shown_together({"a": [1.0]}) == []


def test_accuracies_of_reward_models_are_means_over_the_seeds_that_have_them(tmp_path, capsys):
    for seed, accuracy in ((0, 0.8), (1, 0.9)):
        part = {"accuracy": accuracy, "blind_accuracy": 0.6 + 0.1 * seed}
        groups = {
            "by_kind": {"strong": part},
            "by_operator": {"wrong_number": {"accuracy": accuracy / 2, "blind_accuracy": 0.5}},
        }
        for name in ("rm", *(["rm-one"] if seed == 0 else [])):
            for on in ("pairs", "benchmark"):
                folder = tmp_path / str(seed) / f"eval-{name}-{on}"
                write_report(folder, pairs=7, **part, **groups)
    tables.main(["pairs", str(tmp_path), "rm=Both", "rm-one=One"])
    printed = capsys.readouterr().out
    rows = rows_of(printed)
    assert rows["reward model"] == ["seeds", "all", "strong", "wrong number", "policy samples"]
    whole = f"0.850 ± {12.706 * 0.05:.3f}"  # t of one degree of freedom; s / sqrt(2) is 0.05
    assert rows["Both"] == ["2", whole, "0.850", "0.425", whole]
    assert rows["One"] == ["1", "0.800 ± nan", "0.800", "0.400", "0.800 ± nan"]
    blind = f"0.650 ± {12.706 * 0.05:.3f}"
    assert rows["without the prompt"] == ["2", blind, "0.650", "0.500", blind]
    # Paired, since blind rises with the reward model from seed to seed: .2 in both, no interval.
    assert rows["strong"] == [whole, blind, "+0.200 ± 0.000", "shown"]
    assert rows["wrong number"][2:] == [f"-0.075 ± {12.706 * 0.025:.3f}", "not shown"]
    assert "Shown among all 4, " in printed


def test_a_prm_s_auc_stands_above_that_of_a_line_s_place(tmp_path, capsys):
    for seed in range(2):
        for name, score in (("prm-on-x", 0.9), ("other-on-x", 0.8), ("prm-on-y", 0.7)):
            early = {"auc": score - 0.1, "position_auc": 0.55}
            report = {"eval_auc": score, "eval_accuracy": 0.6, "eval_position_auc": 0.65}
            folder = tmp_path / str(seed) / f"eval-{name}"
            write_report(folder, by_steps={}, to_first_error=early, **report)
    tables.main(["prm", str(tmp_path), "prm-on-x", "other-on-x", "prm-on-y"])
    rows = rows_of(capsys.readouterr().out)
    assert rows["other-on-x"] == ["0.800 ± 0.000", "0.700 ± 0.000", "0.600 ± 0.000"]
    assert rows["place-on-x"] == rows["place-on-y"] == ["0.650 ± 0.000", "0.550 ± 0.000"]


def test_reward_models_rank_samples_between_a_random_choice_and_the_best(tmp_path, capsys):
    for seed in range(2):
        for name, rate in (("choice-prm", 0.5), ("choice-orm", 0.4)):
            kinds = {"choice-prm": ("prm min", "prm mean"), "choice-orm": ("orm",)}[name]
            found = {"random": 0.3, **dict.fromkeys(kinds, rate), "oracle": 0.9}
            ranked = {ranker: {"pass@1": one} for ranker, one in found.items()}
            write_report(tmp_path / str(seed) / f"eval-{name}", tasks=5, n=8, rankers=ranked)
    tables.main(["rankers", str(tmp_path), "choice-prm", "choice-orm"])
    out = capsys.readouterr().out
    assert "One of 8 samples" in out and "5 held-out tasks, 2 seeds" in out
    rates = [row[0].split()[0] for row in list(rows_of(out).values())[2:]]
    assert rates == ["0.300", "0.500", "0.500", "0.400", "0.900"]
    assert {"choice-prm, min of lines", "choice-prm, mean of lines", "choice-orm"} <= set(
        rows_of(out)
    )


def test_a_hack_is_seen_where_the_score_rises_and_the_pass_rate_halves(tmp_path, capsys):
    for arm, falls in (("hacked", True), ("sound", False)):
        rates = [0.4 if not falls else max(0.4 - 0.02 * i, 0.0) for i in range(30)]
        log = [
            {
                "step": i,
                "rewards/tests/mean": rate,
                "rewards/prm/mean": 0.01 * i,
                "completions/mean_lines": 9.0,
                "completions/comment_ratio": 0.0,
            }
            for i, rate in enumerate(rates)
        ]
        common.write_jsonl(tmp_path / "0" / arm / "metrics.jsonl", log)
        common.write_jsonl(
            tmp_path / "0" / f"gold-{arm}.jsonl", [{"labels": [1.0, None, -1.0, -1.0, -1.0]}]
        )
    common.write_jsonl(tmp_path / "0" / "gold-sft.jsonl", [{"labels": [1.0, None, -1.0]}])
    tables.main(["hack", str(tmp_path), "hacked=Hacked", "sound=Sound"])
    rows = rows_of(capsys.readouterr().out)
    assert rows["Sound"][-1] == "never" and rows["Sound"][0] == "0.400 → 0.400 ± nan"
    assert (
        rows["Hacked"][0] == "0.310 → 0.000 ± nan" and rows["Hacked"][-2] == "0.500 → 0.250 ± nan"
    )
    assert (
        rows["Hacked"][-1] == "18"
    )  # the first mean of ten batches below .155: .15, of the batches up to the 18th


def test_labels_by_search_are_compared_with_execution_line_by_line(tmp_path, capsys):
    config = micro.Config(
        "",
        num_sft_tasks=1,
        num_train_tasks=3,
        num_test_tasks=1,
        train_min_steps=3,
        max_steps=3,
    )
    tasks = micro.make(config)["train"]
    common.write_jsonl(tmp_path / "train.jsonl", tasks)
    rows = []
    for task, first_bad in zip(
        tasks, (3, 2, 4), strict=True
    ):  # the second step is wrong, on line 3
        lines = task["solution"].splitlines(keepends=True)
        lines[2] = task["meta"]["misconceptions"][1] + "\n"
        labels = [1.0 if i < first_bad else -1.0 for i in range(1, len(lines) + 1)]
        rows.append(
            {
                "task_id": task["task_id"],
                "completions": lines,
                "labels": labels,
                "meta": {"passed": False, "first_bad": first_bad, "steps": 3},
            }
        )
    common.write_jsonl(tmp_path / "search.jsonl", rows)
    common.write_text(
        tmp_path / "search.report.json",
        json.dumps({"failed": 3, "completions": 30, "completion_tokens": 300, "executions": 12}),
    )
    tables.main(["labels", str(tmp_path / "train.jsonl"), f"K = 8={tmp_path / 'search.jsonl'}"])
    printed = capsys.readouterr().out
    cells = rows_of(printed)["K = 8"]
    assert "; 1 seeds, " in printed
    assert [cell.split(" ±")[0] for cell in cells] == [
        "all",
        f"{13 / 15:.3f}",
        "0.333",
        "0.333",
        "0.333",
        "10.0",
        "100.0",
        "4.0",
    ]
    search = str(tmp_path / "search.jsonl")
    tables.main(["labels", str(tmp_path / "train.jsonl"), f"a={search}", f"b={search},{search}"])
    assert "; a: 1 seeds, b: 2 seeds, mean" in capsys.readouterr().out


def test_a_gain_is_the_first_arm_s_pass_rate_minus_the_second_s_over_tasks_and_seeds(
    tmp_path, capsys
):
    for seed in range(3):
        for arm, passing in (("good", 3), ("bad", 1)):  # of four samples of each of 20 tasks
            rows = [
                {"task_id": f"t{i}", "status": "passed" if g < passing else "failed"}
                for i in range(20)
                for g in range(4)
            ]
            common.write_jsonl(tmp_path / str(seed) / f"eval-{arm}" / "verdicts.jsonl", rows)
    common.write_jsonl(
        tmp_path / "3" / "eval-good" / "verdicts.jsonl", rows
    )  # a seed without the other arm
    tables.main(["gains", str(tmp_path), "good:bad=Good against bad", "bad:good=Bad against good"])
    printed = capsys.readouterr().out
    assert "3 seeds" in printed
    rows = rows_of(printed)
    assert rows["Good against bad"] == ["+0.500", "[+0.500, +0.500]"]
    assert rows["Bad against good"] == ["-0.500", "[-0.500, -0.500]"]


def test_a_curve_is_the_mean_of_each_ten_batches(tmp_path, capsys):
    for seed, shift in enumerate((0.0, 0.2)):
        log = [
            {"step": i, "passed": None if i in (3, 4) else i // 10 / 10 + shift} for i in range(20)
        ]
        common.write_jsonl(tmp_path / str(seed) / "arm" / "metrics.jsonl", log)
        common.write_text(tmp_path / str(seed) / "arm" / "config.json", "{}")
        common.write_jsonl(
            tmp_path / str(seed) / "more" / "metrics.jsonl",
            [{"step": i, "passed": 0.5} for i in range(20)],
        )
        common.write_text(tmp_path / str(seed) / "more" / "config.json", "{}")
    tables.main(["curves", str(tmp_path), "passed", "arm=Arm", "more=More"])
    rows = rows_of(capsys.readouterr().out)
    assert rows["arm"] == ["1-10", "11-20", "all", "against Arm"]
    assert rows["Arm"][:2] == ["0.100 ± 1.271", "0.200 ± 1.271"]
    assert rows["More"] == ["0.500 ± 0.000", "0.500 ± 0.000", "0.500 ± 0.000", "+0.344 ± 1.271"]


def write_curve(runs, seed, arm, rates):
    rows = [{"step": i, "rewards/tests/mean": rate} for i, rate in enumerate(rates, 1)]
    common.write_jsonl(runs / str(seed) / arm / "metrics.jsonl", rows)
    common.write_text(runs / str(seed) / arm / "config.json", "{}")


def test_a_contrast_is_a_signed_sum_of_areas_paired_by_seed_with_its_own_interval(tmp_path, capsys):
    gains = [0.10, 0.20, 0.30, 0.20]
    for seed, gain in enumerate(gains):
        for steps, times in (("8", 2), ("4", 1)):
            write_curve(tmp_path / steps, seed, "tests", [0.1 * seed, 0.3])
            write_curve(tmp_path / steps, seed, "dense", [0.1 * seed + times * gain, 0.3])
    write_curve(tmp_path / "8", 9, "tests", [0.5])  # the other arm has not ended
    claims = ["gain=+4/dense -4/tests", "more=+8/dense -8/tests -4/dense +4/tests"]
    claims += ["nothing=+4/tests -4/tests", "missing=+4/other -4/tests"]
    tables.main(["contrasts", str(tmp_path), "rewards/tests/mean", *claims])
    rows = rows_of(capsys.readouterr().out)
    # Areas are means of two batches: differences of half the gains, 0.1 on average, standard
    # deviation 0.0408; t(3) is 3.182 at 0.975 and 0.978 at 0.8.
    half, seen = 3.182 * 0.0408248 / 2, (3.182 + 0.978) * 0.0408248 / 2
    interval = f"[{0.1 - half:+.3f}, {0.1 + half:+.3f}]"
    assert rows["gain"] == ["4", "+0.100", interval, "shown", f"{seen:.3f}"]
    assert rows["more"] == rows["gain"]
    assert rows["nothing"] == ["4", "+0.000", "[+0.000, +0.000]", "not shown", "0.000"]
    assert rows["missing"] == ["0", "", "", "not shown"]  # and an empty last cell
    write_report(tmp_path / "4" / "0" / "eval-tests", **{"pass@1": 0.25})
    write_report(tmp_path / "4" / "0" / "eval-dense", **{"pass@1": 0.5})
    tables.main(["contrasts", str(tmp_path), "pass@1", "gain=+4/dense -4/tests"])
    assert rows_of(capsys.readouterr().out)["gain"][0] == "1"  # one seed: no interval
    with pytest.raises(SystemExit, match=r"expected LABEL=\+ARM -ARM"):
        tables.main(["contrasts", str(tmp_path), "pass@1", "gain=dense"])


def test_the_spread_of_rewards_scales_a_weight(tmp_path, capsys):
    for name, rewards in (("tests", [0, 0, 1, 1]), ("prm", [-4, -4, 4, 4])):
        common.write_jsonl(tmp_path / name / "completions.jsonl", [{"reward": r} for r in rewards])
    tables.main(["spread", str(tmp_path / "prm"), str(tmp_path / "tests"), "0.01"])
    assert capsys.readouterr().out == "0.08\n"
    common.write_jsonl(tmp_path / "same" / "completions.jsonl", [{"reward": 0.0}] * 2)
    with pytest.raises(SystemExit, match="all rewards of a run are equal"):
        tables.main(["spread", str(tmp_path / "same"), str(tmp_path / "tests"), "0.01"])


def test_the_budget_counts_programs_where_labels_come_from_execution(tmp_path, capsys):
    for arm, last in (("plain", {}), ("exact", {"label_programs": 120})):
        log = [{"step": i, "episode": 4 * i, "rewards/tests/mean": 0.5} for i in range(1, 11)]
        log[-1] |= last
        common.write_jsonl(tmp_path / "0" / arm / "metrics.jsonl", log)
        common.write_text(tmp_path / "0" / arm / "run_config.json", '{"prm": null}')
        write_report(tmp_path / "0" / f"eval-{arm}", solved=0.25)
        config = json.dumps({"num_samples": 4})
        common.write_text(tmp_path / "0" / f"eval-{arm}" / "run_config.json", config)
    tables.main(["budget", str(tmp_path), "plain=Plain", "exact=Exact"])
    rows = rows_of(capsys.readouterr().out)
    assert rows["arm"][2:4] == ["for labels", "programs"]
    # completions.jsonl is not there: a share of solved tasks is not known.
    assert rows["Plain"][2:6] == ["0", "0", "0", ""]
    assert rows["Exact"][2:6] == ["0", "120", "0", ""]
