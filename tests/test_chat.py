"""Language models as teachers: an endpoint that misbehaves in every way, and a local model."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import common
from common import InputError
from prm_data import contrast, mutate
from teachers import chat, chat_reasoning
from teachers.chat_variants import read_answer
from teachers.program import Program
from teachers.units import line_units

KEY = "sk-very-secret"
ROOT = Path(__file__).parent.parent


def reply(text):
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": usage})


class Server:
    """A chat endpoint on loopback; `script(prompt, attempt)` gives (status, headers, body)."""

    def __init__(self, script):
        self.requests, self.attempts, self.busy, self.most_busy = [], {}, 0, 0
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                prompt = body["messages"][-1]["content"]
                with lock:
                    self.requests.append(
                        (prompt, time.monotonic(), handler.path, dict(handler.headers), body)
                    )
                    attempt = self.attempts[prompt] = self.attempts.get(prompt, 0) + 1
                    self.busy += 1
                    self.most_busy = max(self.most_busy, self.busy)
                try:
                    status, headers, text = script(prompt, attempt)
                finally:
                    with lock:
                        self.busy -= 1
                if status is None:
                    return  # closes the connection without a word
                handler.send_response(status)
                for name, value in headers.items():
                    handler.send_header(name, value)
                handler.end_headers()
                with contextlib.suppress(OSError):  # the client may have timed out
                    handler.wfile.write(text.encode())

            def log_message(handler, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def serve(monkeypatch):
    """Starts servers that end with the test; waits between retries are short."""
    monkeypatch.setattr(chat, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(script):
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def teacher_for(server, tmp_path, **keywords):
    keywords = {"model": "m", "concurrency": 4, "max_retries": 2, "timeout": 5.0, **keywords}
    return chat.Teacher(server.url, tmp_path / "cache.jsonl", **keywords)


def test_answers_come_in_the_order_of_the_prompts_and_many_at_a_time(serve, tmp_path):
    def script(prompt, attempt):
        time.sleep(0.3 if prompt == "0" else 0.1)
        return 200, {}, reply(f"answer {prompt}")

    server = serve(script)
    teacher = teacher_for(server, tmp_path)
    prompts = [
        [{"role": "system", "content": "s"}, {"role": "user", "content": str(i)}] for i in range(8)
    ]
    assert teacher.ask(prompts, "test") == [f"answer {i}" for i in range(8)]
    assert 1 < server.most_busy <= 4
    assert {path for _, _, path, _, _ in server.requests} == {"/v1/chat/completions"}
    assert all(
        body["messages"][0]["role"] == "system" and body["model"] == "m"
        for *_, body in server.requests
    )
    assert teacher.tokens == {"prompt_tokens": 56, "completion_tokens": 24}


@pytest.mark.parametrize(
    "failure",
    [
        (500, {}, "down"),
        (429, {}, "slow down"),
        (200, {}, "<html>"),
        (200, {}, '{"choices": []}'),
        (None, {}, ""),
        (200, {}, reply("")),
        (200, {}, reply(None)),
        (200, {}, "[1]"),
        (200, {"Content-Length": "999"}, "cut off"),
    ],
    ids=["500", "429", "not JSON", "no choices", "hang-up", "empty", "null", "a list", "cut off"],
)
def test_a_failure_is_tried_again_and_after_the_last_retry_the_prompt_has_no_answer(
    serve, tmp_path, failure
):
    def script(prompt, attempt):
        return (
            failure
            if prompt == "never" or (prompt == "third" and attempt < 3)
            else (200, {}, reply(prompt))
        )

    server = serve(script)
    teacher = teacher_for(server, tmp_path, concurrency=1)
    assert teacher.ask(["good", "third", "never", "last"], "test") == [
        "good",
        "third",
        None,
        "last",
    ]
    assert server.attempts == {"good": 1, "third": 3, "never": 3, "last": 1}


def test_a_server_that_hangs_is_a_timeout(serve, tmp_path):
    hang = threading.Event()

    def script(prompt, attempt):
        if attempt == 1:
            hang.wait(5)
        return 200, {}, reply("late")

    started = time.monotonic()
    assert teacher_for(serve(script), tmp_path, timeout=1.0).ask(["a"], "test") == ["late"]
    assert time.monotonic() - started < 4
    hang.set()


def test_retry_after_is_honoured(serve, tmp_path):
    server = serve(
        lambda prompt, attempt: (
            (429, {"Retry-After": "1"}, "") if attempt == 1 else (200, {}, reply("ok"))
        )
    )
    assert teacher_for(server, tmp_path).ask(["a"], "test") == ["ok"]
    (_, first, *_), (_, second, *_) = server.requests
    assert second - first >= 1
    assert chat.seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0 == chat.seconds_to_wait("nan")
    assert chat.seconds_to_wait("Wed, 21 Oct 2099 07:28:00 GMT") == chat.LONGEST_RETRY_AFTER
    assert chat.seconds_to_wait("soon") == 0 == chat.seconds_to_wait(None)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404])
def test_a_refusal_ends_the_run_at_once_with_what_the_server_says_but_not_the_key(
    serve, tmp_path, status
):
    server = serve(lambda prompt, attempt: (status, {}, f"bad key {KEY} " + "x" * 5000))
    with pytest.raises(InputError, match=rf"HTTP {status}: bad key \*\*\* x+$") as caught:
        teacher_for(server, tmp_path, concurrency=4).ask([str(i) for i in range(50)], "test")
    assert len(server.requests) <= 4 and len(str(caught.value)) < 400
    assert server.requests[0][3]["Authorization"] == f"Bearer {KEY}"


def test_once_others_were_answered_a_400_is_about_its_prompt_alone(serve, tmp_path):
    server = serve(
        lambda prompt, attempt: (
            (400, {}, "too long") if prompt == "long" else (200, {}, reply("ok"))
        )
    )
    assert teacher_for(server, tmp_path, concurrency=1).ask(["a", "long", "b"], "test") == [
        "ok",
        None,
        "ok",
    ]
    assert server.attempts["long"] == 1


def test_a_server_that_is_not_there_or_dies_is_one_error_and_not_hours_of_retries(serve, tmp_path):
    server = serve(
        lambda prompt, attempt: (
            (200, {}, reply("ok")) if prompt in ("0", "1") else (503, {}, "dead")
        )
    )
    with pytest.raises(InputError, match="no answer to 4 of 6 prompts; the last: HTTP 503: dead"):
        teacher_for(server, tmp_path, concurrency=1).ask([str(i) for i in range(100)], "test")
    assert len(server.requests) < 100  # all would be 296
    gone = Server(lambda prompt, attempt: (200, {}, ""))
    gone.http.shutdown()
    gone.http.server_close()
    with pytest.raises(InputError, match=r"no answer to 4 of 4 prompts.*refused"):
        teacher_for(gone, tmp_path / "gone").ask([str(i) for i in range(100)], "test")


def test_what_was_answered_is_never_asked_again(serve, tmp_path):
    """Cut off by a refusal and by a torn last line: the third run asks for the rest alone."""
    broken = [True]

    def script(prompt, attempt):
        return (
            (401, {}, "")
            if broken[0] and int(prompt) >= 6
            else (200, {}, reply(f"answer {prompt}"))
        )

    server, prompts = serve(script), [str(i) for i in range(10)]
    with pytest.raises(InputError):
        teacher_for(server, tmp_path, concurrency=1).ask(prompts, "test")
    cache = tmp_path / "cache.jsonl"
    lines = cache.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    cache.write_text("".join(lines[:5]) + lines[5][:20])
    broken[0] = False
    assert teacher_for(server, tmp_path).ask(prompts, "test") == [f"answer {i}" for i in range(10)]
    assert [server.attempts[str(i)] for i in range(5)] == [1] * 5 and server.attempts["5"] == 2
    count = len(server.requests)
    assert teacher_for(server, tmp_path).ask(prompts[::-1], "test") == [
        f"answer {i}" for i in range(9, -1, -1)
    ]
    assert len(server.requests) == count
    assert KEY not in cache.read_text()
    teacher_for(server, tmp_path, temperature=0.1).ask(
        prompts, "test"
    )  # another temperature, other answers
    assert len(server.requests) == count + 10


def test_a_prompt_that_occurs_again_is_another_sample(serve, tmp_path):
    server = serve(lambda prompt, attempt: (200, {}, reply(f"sample {attempt}")))
    answers = teacher_for(server, tmp_path, concurrency=1).ask(["a", "a", "a"], "test")
    assert answers == ["sample 1", "sample 2", "sample 3"]
    assert len({body["seed"] for *_, body in server.requests}) == 3
    assert (
        teacher_for(server, tmp_path).ask(["a", "a", "a"], "test") == answers
        and len(server.requests) == 3
    )


def test_bad_flags_and_a_damaged_cache_are_clear_errors(tmp_path, monkeypatch):
    for keywords in (
        {"concurrency": 0},
        {"max_retries": -1},
        {"timeout": 0.0},
        {"temperature": -1.0},
    ):
        with pytest.raises(InputError, match="a teacher needs"):
            chat.Teacher("http://127.0.0.1:1/v1", tmp_path / "c", "m", **keywords)
    for url in ("http://", "http://127.0.0.1:port/v1"):
        with pytest.raises(InputError, match="not the URL of an endpoint"):
            chat.Teacher(url, tmp_path / "c", "m")
    with pytest.raises(InputError, match="--teacher_model"):
        chat.Teacher("http://127.0.0.1:1/v1", tmp_path / "c")
    (tmp_path / "c").write_text('{"key": 1, "answer": "x"}\n')
    with pytest.raises(InputError, match=":1: field 'key' must be str"):
        chat.Teacher("http://127.0.0.1:1/v1", tmp_path / "c", "m")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a\nsk-b")
    with pytest.raises(InputError, match="OPENAI_API_KEY") as caught:
        chat.Teacher("http://127.0.0.1:1/v1", tmp_path / "d", "m")
    assert "sk-" not in str(caught.value)


SOURCE = (
    "def f(xs):\n    total = 0\n    for x in xs:\n        if x > 0:\n            total += x\n"
    "    return total\n"
)


@pytest.mark.parametrize(
    ("line", "answer", "text"),
    [
        (2, "Sure:\n```python\ntotal = 1\n```\nThis breaks it.", "    total = 1\n"),
        (5, "```\n  total -= x  # the bug\n\n```", "            total -= x\n"),
        (
            4,
            "<think>```\nif 1:\n```</think>```py\nif x >= 0:  # was >\n```",
            "        if x >= 0:\n",
        ),
        (
            6,
            "```python\nif total:\n    return total\nreturn 0\n```",
            "    if total:\n        return total\n    return 0\n",
        ),
        (
            2,
            f"```python\n{SOURCE.replace('total = 0', 'total = 2')}```",
            "    total = 2\n",
        ),  # the whole program
        (  # the whole program, in other white space
            4,
            f"```\n{SOURCE.replace('    ', '  ').replace('x > 0', 'x >= 0')}# done\n```",
            "        if x >= 0:\n",
        ),
        (4, "```\nif x >= 0 :\n  total  +=  x\n```", "        if x >= 0 :\n"),  # with its body
        (5, "```\nif x > 0:\n    total -= x\n```", "            total -= x\n"),  # with its header
        (2, "```\ndef f(xs):\n    total = 1\n```", "    total = 1\n"),
        (5, "```\nreturn total\n```", "            return total\n"),  # no repetition: a change
        (  # the rest of the program at another depth is another program
            2,
            "```\ntotal = 0\nfor x in xs:\n    if x > 0:\n        total += x\n"
            "    return total\n```",
            "    total = 0\n    for x in xs:\n        if x > 0:\n            total += x\n"
            "        return total\n",
        ),
        (5, f"```\n{SOURCE.replace('            total += x', '')}```", None),
        (2, "Old:\n```\ntotal  = 0\n```\nNew:\n```\ntotal = 1\n```", "    total = 1\n"),
        (2, "```\ntotal = 0\n```\n```\ntotal = 0\n```", "    total = 0\n"),
        (2, "```\ntotal = 1\n```\nOr:\n```\ntotal = 2\n```", "    total = 1\n"),
        (2, "```python\r\ntotal = '#'\r\n```", "    total = '#'\n"),
        (2, f"```python\n{SOURCE.replace('0', '2')}```", None),  # it, with a change elsewhere
        (
            4,
            "```python\nif x >= 0:\n    total -= x\n```",
            None,
        ),  # a body below what was a header alone
        (2, "total = 1", None),
        (2, "```python\ntotal = 1", None),
        (2, "```python\n# nothing\n```", None),
        (2, "```python\n```", None),
    ],
)
def test_the_code_of_an_answer_is_found_and_put_at_the_place_of_the_unit(line, answer, text):
    unit = next(unit for unit in line_units(Program(SOURCE)) if unit.start == line)
    assert read_answer(SOURCE, unit, answer) == text


def test_a_copy_of_the_line_beside_the_unit_is_a_change():
    source = "def f(a):\n    a += 1\n    a += 2\n    return a\n"
    first = line_units(Program(source))[1]
    assert read_answer(source, first, "```\na += 2\n```") == "    a += 2\n"
    assert read_answer(source, first, "```\na += 3\na += 2\n```") == "    a += 3\n"


@pytest.fixture
def tasks(tmp_path):
    task = {
        "task_id": "t",
        "prompt": "Sum up the positive numbers.",
        "entry_point": "f",
        "solution": SOURCE,
        "setup": "",
    }
    task |= {
        "style": "call",
        "tests": [{"args": [[1, -1, 2, 0]], "output": 3}],
        "timeout": None,
        "meta": {},
    }
    common.write_jsonl(
        tmp_path / "tasks.jsonl",
        [task, task | {"task_id": "wrong", "solution": "def f(xs):\n    pass\n"}],
    )
    return tmp_path / "tasks.jsonl"


ANSWERS = {  # (line, intent): the new line; what the model meant may be wrong
    (2, "mutate"): "total = 1",
    (2, "refactor"): "total = int()",
    (4, "mutate"): "if x >= 0:",  # equivalent
    (4, "refactor"): "if not x > 0:",  # breaks it
    (5, "mutate"): "total += x",  # unchanged
    (5, "refactor"): "total += +",  # does not parse
    (6, "mutate"): "return total\n#",  # unchanged but for a comment
    (6, "refactor"): "return (total)",  # unchanged but for parentheses
}


def test_an_endpoint_s_versions_are_labelled_by_execution_and_a_killed_run_pays_for_none_twice(
    serve, tasks, tmp_path
):
    def script(prompt, attempt):
        intent = "mutate" if "becomes wrong" in prompt else "refactor"
        line = int(prompt.split("Rewrite line ")[1].split()[0])
        assert (
            "Sum up the positive numbers." in prompt and "  5              total += x\n" in prompt
        )
        if (line, intent) == (3, "refactor"):
            return 200, {}, "not JSON"
        return 200, {}, reply(f"Here:\n```python\n{ANSWERS.get((line, intent), 'pass')}\n```")

    server, output = serve(script), tmp_path / "prm.jsonl"
    config = mutate.Config(
        str(tasks),
        str(output),
        teacher=server.url,
        teacher_model="m",
        teacher_concurrency=2,
        teacher_max_retries=1,
        outcomes_file=str(tmp_path / "outcomes.jsonl"),
    )
    mutate.main(config)
    rows = [json.loads(line) for line in open(output)]
    changed = [
        (row["completions"][line].strip(), row["origin"], row["labels"][line])
        for row in rows
        for line in row["meta"]["changed"]
    ]
    assert changed == [
        ("total = 1", "mutate", -1.0),
        ("total = int()", "refactor", 1.0),
        ("if not x > 0:", "refactor", -1.0),
    ]
    report = json.loads((tmp_path / "prm.report.json").read_text())
    assert (
        report["total"]["equivalent"] == 1
        and report["total"]["made"] == 4
        and report["failing_references"] == 1
    )
    counts = {
        name: report["teacher"][name]
        for name in ("answers", "missing", "unparsable", "unchanged", "duplicate")
    }
    # `pass` in the place of both headers (def, for) does not parse; the task whose reference fails
    # is never asked about
    assert counts == {"answers": 11, "missing": 1, "unparsable": 4, "unchanged": 3, "duplicate": 0}
    assert sorted(server.attempts.values()) == [1] * 11 + [2]
    outcomes = [json.loads(line) for line in open(tmp_path / "outcomes.jsonl")]
    assert [(row["origin"], row["status"]) for row in outcomes] == [
        ("reference", "passed"), ("mutate", "failed"), ("refactor", "passed"), ("mutate", "passed"),
        ("refactor", "failed"), ("reference", "failed"),
    ]  # fmt: skip

    whole, progress = output.read_bytes(), tmp_path / "prm.jsonl.progress"
    output.unlink()
    progress.write_text(progress.read_text().splitlines(keepends=True)[0] + '{"task_id": ')
    server.requests.clear()
    mutate.main(config)
    assert output.read_bytes() == whole
    assert len(server.requests) == 2  # the one without an answer, and its retry
    for path in tmp_path.iterdir():
        assert KEY not in path.read_text(), path


def test_several_versions_of_a_unit_are_several_samples(serve, tasks, tmp_path):
    server = serve(lambda prompt, attempt: (200, {}, reply(f"```\ntotal = {attempt % 3}\n```")))
    mutate.main(
        mutate.Config(
            str(tasks),
            str(tmp_path / "prm.jsonl"),
            teacher=server.url,
            teacher_model="m",
            num_variants=4,
            intents=["mutate"],
            teacher_concurrency=1,
        )
    )
    report = json.loads((tmp_path / "prm.report.json").read_text())
    assert len(server.requests) == 6 * 4
    # line 2 is given `total = 1`, `= 2`, `= 0` (the reference) and `= 1` again; line 6, `return`,
    # the first three
    assert report["teacher"]["duplicate"] >= 2 and report["teacher"]["unchanged"] == 1


def test_a_local_model_is_a_teacher_and_its_garbage_is_counted(tasks, tmp_path):
    tokenizer = common.new_tokenizer([SOURCE, "Sum up the positive numbers."], 300)
    common.save_model(
        common.new_model(tokenizer, 32, 1, 0), tokenizer, new_folder(tmp_path / "model")
    )
    config = mutate.Config(
        str(tasks),
        str(tmp_path / "prm.jsonl"),
        teacher=str(tmp_path / "model"),
        teacher_max_new_tokens=8,
        intents=["mutate"],
    )
    mutate.main(config)
    report = json.loads((tmp_path / "prm.report.json").read_text())
    teacher = report["teacher"]
    assert (
        teacher["missing"] + teacher["unparsable"] == 6
        and report["total"]["made"] == 0
        and report["rows"] == 1
    )
    cached = (tmp_path / "prm.jsonl.teacher").read_text()
    assert cached.count("\n") == teacher["answers"] > 0 and teacher["completion_tokens"] <= 6 * 8
    teachers = [
        chat.Teacher(config.teacher, tmp_path / name, max_new_tokens=9, concurrency=2)
        for name in "ab"
    ]
    answers = [teacher.ask(["one", "two", "two", "x" * 3000], "test") for teacher in teachers]
    assert (
        answers[0] == answers[1] and answers[0][1] != answers[0][2] and answers[0][3] is None
    )  # too long for it


def new_folder(path):
    path.mkdir()
    return path


def test_the_chat_template_of_a_local_model_is_used(tmp_path):
    tokenizer = common.new_tokenizer(["hello"], 270)
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert tokenizer.decode(chat.encode(tokenizer, messages)) == "a\n\nb\n"
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    assert tokenizer.decode(chat.encode(tokenizer, messages)) == "[system]a[user]b"


def test_an_answer_that_used_all_its_tokens_is_none_where_its_end_counts(serve, tmp_path):
    server = serve(lambda prompt, attempt: (200, {}, reply("an answer")))  # of three tokens
    for tokens, answer in ((3, None), (4, "an answer")):
        for _ in range(2):  # from the endpoint, then from the cache
            teacher = teacher_for(server, tmp_path, max_new_tokens=tokens)
            assert teacher.ask(["a"], "test", whole=True) == [answer]
            assert teacher.ask(["a"], "test") == ["an answer"]
            assert teacher.missing == 0  # the same answer would come again
    assert len(server.requests) == 2


def test_pairs_are_complete_though_some_rewritings_were_cut_off(serve, tmp_path, capfd):
    def script(prompt, attempt):
        body = json.loads(reply("1. Add one.\n2. Return it."))
        body["usage"]["completion_tokens"] = 8 if "subtly false" in prompt else 3
        return 200, {}, json.dumps(body)

    text = "<think>\n1. Add two.\n2. Return it.\n</think>\n<answer>\nx\n</answer>"
    common.write_jsonl(
        tmp_path / "tasks.jsonl", [{"task_id": "t", "prompt": "p", "completion": text}]
    )
    flags = {"teacher": serve(script).url, "teacher_model": "m", "max_new_tokens": 8}
    config = contrast.Config(
        str(tmp_path / "tasks.jsonl"), str(tmp_path / "pairs.jsonl"), num_degraded=1, **flags
    )
    contrast.main(config)
    (_, err), rows = capfd.readouterr(), common.read_jsonl(tmp_path / "pairs.jsonl", {})
    assert "1 answers are left out: they were cut off at 8 tokens" in err and "lacks" not in err
    assert {row["meta"]["dimension"] for row in rows if row["kind"] == "degradation"} == {
        "rigour",
        "coherence",
    }
    contrast.main(config)
    assert "is complete; nothing to do" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("1. Add.\n2. Return.", "\n1. Add.\n2. Return.\n"),
        (
            "<think>The step\nis wrong.</think>\n\n1. Add.\r\n2. Return.\n",
            "\n1. Add.\n2. Return.\n",
        ),
        ("<think>It is.</think>\n", None),
        ("", None),
    ],
)
def test_a_rewritten_reasoning_is_without_the_teacher_s_own_thoughts(answer, text):
    assert chat_reasoning.read_answer(answer) == text


def test_a_teacher_s_answers_are_counted_beside_the_rules_by_what_they_do(serve, tasks, tmp_path):
    def script(prompt, attempt):
        if "<reasoning>" in prompt:
            new = "1. Add the odd ones." if "is subtly false" in prompt else "1. Add them."
            return 200, {}, reply(new)
        if "numbered steps" in prompt:
            return 200, {}, reply("1. Add them.")
        intent = "mutate" if "becomes wrong" in prompt else "refactor"
        line = int(prompt.split("Rewrite line ")[1].split()[0])
        return 200, {}, reply(f"```\n{ANSWERS.get((line, intent), 'pass')}\n```")

    server, output = serve(script), tmp_path / "out"
    rows = common.read_jsonl(tasks, {})
    common.write_jsonl(tmp_path / "right.jsonl", rows[:1])
    command = [sys.executable, str(ROOT / "reproduce/teacher_quality.py"), "--teacher", server.url]
    command += ["--teacher_model", "m", "--tasks", str(tmp_path / "right.jsonl")]
    done = subprocess.run(
        [*command, "--output_dir", str(output)], capture_output=True, text=True, check=True
    )
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    by_teacher = {(row[0], row[1]): row[2:] for row in table if len(row) == 11}
    # answers; missing, unparsable, unchanged, duplicate, unjudged; programs, of so many statements,
    # as intended
    assert by_teacher["mutate", "model"] == ["6", "0", "2", "2", "0", "0", "2", "2", "1"]
    assert by_teacher["refactor", "model"] == ["6", "0", "3", "1", "0", "0", "2", "2", "1"]
    assert int(by_teacher["mutate", "rules"][0]) > 6
    words = [line.split() for line in done.stdout.splitlines()]
    assert ["degradation", "factual", "1", "0"] in words  # much longer: not kept
    assert not any(row[:1] == ["optimisation"] for row in words)  # unchanged
    asked = len(server.requests)
    examples = (output / "examples.md").read_text()
    assert examples.count("\n---\n") + 1 == asked == 6 * 2 + 1 + 6
