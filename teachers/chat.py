"""Language models as teachers: prompts in, answers out, each kept on disk as soon as it has come.

    teacher = chat.Teacher("https://api.deepseek.com/v1", "prm.jsonl.teacher", "deepseek-chat")
    answers = teacher.ask(["Why?", [{"role": "user", "content": "How?"}]], "teacher")
    # in the order of the prompts; None: no answer

The teacher is an OpenAI-compatible chat endpoint (a URL: DeepSeek, vLLM, Ollama, ...) or a causal
language model in a folder or on the hub. An endpoint's key, where it needs one, is the environment
variable OPENAI_API_KEY. The key is sent to that endpoint alone and written nowhere.
"""

import contextlib
import hashlib
import http.client
import json
import math
import os
import random
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time

import common
from common import InputError

FIRST_WAIT = 1.0  # seconds before the first retry; doubled each time,
LONGEST_WAIT = 60.0  # up to this
LONGEST_RETRY_AFTER = 600.0  # seconds that a server may ask us to wait
MAX_BYTES = 16 << 20  # of one reply
TRY_AGAIN = (408, 409, 425, 429)  # and all from 500
STOPPED = "the run has stopped"
THIS_PROMPT = (400, 413, 422)  # once others were answered: this one prompt is too long, or filtered


class Teacher:
    """A language model with a cache of its answers.

    name: URL of an endpoint, short of /chat/completions, or a model folder or hub name
    cache: append-only JSONL; what it holds is never asked again
    model: which model of the endpoint
    max_new_tokens: tokens of an answer; temperature 0 is greedy
    concurrency: requests at the same time, or prompts in a batch of the local model
    max_retries, timeout: of one request, with exponential waits between; seconds

    Raises InputError for a model that cannot be loaded, a bad URL, and a damaged cache.
    """

    def __init__(
        self,
        name: str,
        cache: str | Path,
        model: str | None = None,
        temperature: float = 0.8,
        max_new_tokens: int = 512,
        concurrency: int = 8,
        max_retries: int = 5,
        timeout: float = 120.0,
        seed: int = 0,
    ):
        if (
            min(concurrency, max_new_tokens) < 1
            or min(max_retries, temperature) < 0
            or not timeout > 0
        ):
            raise InputError(
                "a teacher needs at least 1 new token and 1 request at a time, a temperature and a "
                "number of retries of 0 or more, and a timeout above 0"
            )
        self.name, self.cache, self.model = name.rstrip("/"), Path(cache), model
        self.temperature, self.max_new_tokens, self.seed = temperature, max_new_tokens, seed
        self.concurrency, self.max_retries, self.timeout = concurrency, max_retries, timeout
        self.endpoint = name.startswith(("http://", "https://"))
        self.key = os.environ.get("OPENAI_API_KEY", "").strip() if self.endpoint else ""
        self.lock, self.answers, self.tokens = threading.Lock(), {}, Counter()
        self.cut = set()  # keys of answers that used all their tokens
        self.missing = 0  # prompts to which no answer came, of all that were asked
        if self.endpoint:
            check_endpoint(name, model, self.key)
        else:
            common.check_model("policy", name)
            self.tokenizer = common.load_tokenizer(name)
            self.policy = common.shard(common.load_policy(name).eval())
        if self.cache.is_file():
            common.write_text(self.cache, "".join(common.whole_lines(self.cache)))
            if self.cache.stat().st_size:
                for row in common.read_jsonl(self.cache, {"key": str, "answer": str}):
                    self.note(row)

    def ask(
        self, prompts: list[str | list[dict]], desc: str, whole: bool = False
    ) -> list[str | None]:
        """The answers to prompts (texts, or lists of messages), in order; None for no answer.

        whole: an answer that used all its tokens is none, since its end is missing. It is not asked
        for again, and not among the missing: the same answer would come.
        A prompt that occurs again is another sample of its answer. Raises InputError where going on
        is useless: the endpoint refuses (HTTP 401, say), or nothing comes back from it any more.
        """
        keys, waiting, samples = [], {}, Counter()
        for prompt in prompts:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            sampling = [self.temperature, self.max_new_tokens, self.seed]
            text = json.dumps([self.name, self.model, messages, *sampling])
            sample = f"{text} {samples[text]}".encode()
            keys.append(hashlib.blake2b(sample, digest_size=16).hexdigest())
            samples[text] += 1
            if keys[-1] not in self.answers:
                waiting[keys[-1]] = messages
        bar = common.progress_bar(desc, len(keys), len(keys) - len(waiting))
        try:
            (self.ask_endpoint if self.endpoint else self.ask_model)(waiting, bar)
        finally:
            bar.close()
        answers = [None if whole and key in self.cut else self.answers.get(key) for key in keys]
        lacking = sum(key not in self.answers for key in keys)
        self.missing += lacking
        if answers.count(None) > lacking:
            print(
                f"{answers.count(None) - lacking} answers are left out: they were cut off at "
                f"{self.max_new_tokens} tokens",
                file=sys.stderr,
            )
        return answers

    def keep(self, key: str, answer: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Notes an answer, and appends it to the cache at once."""
        row = {
            "key": key,
            "answer": answer,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
        }
        with self.lock:
            common.append_jsonl(self.cache, [row])
            self.note(row)

    def note(self, row: dict) -> None:
        self.answers[row["key"]] = row["answer"]
        if row.get("completion_tokens", 0) >= self.max_new_tokens:
            self.cut.add(row["key"])
        for name in ("prompt_tokens", "completion_tokens"):
            self.tokens[name] += row.get(name, 0)

    def seed_for(self, key: str) -> int:
        return common.seed_of(self.seed, "teacher", key) % 2**31  # what every server takes

    def ask_model(self, waiting: dict[str, list[dict]], bar) -> None:
        """Answers of the local model, batch by batch; too long a prompt has no answer."""
        longest = getattr(self.policy.config, "max_position_embeddings", None) or math.inf
        rows = [(key, encode(self.tokenizer, messages)) for key, messages in waiting.items()]
        for start in range(0, len(rows), self.concurrency):
            batch = rows[start : start + self.concurrency]
            fitting = [row for row in batch if len(row[1]) + self.max_new_tokens <= longest]
            if fitting:
                keys, prompts = zip(*fitting, strict=True)
                rollout = common.roll_out(
                    self.policy,
                    self.tokenizer,
                    list(prompts),
                    1,
                    self.max_new_tokens,
                    self.temperature,
                    [self.seed_for(key) for key in keys],
                )
                answered = zip(keys, prompts, rollout.completions, rollout.texts, strict=True)
                for key, prompt, completion, text in answered:
                    if text.strip():
                        self.keep(key, text, len(prompt), len(completion))
            bar.update(len(batch))

    def ask_endpoint(self, waiting: dict[str, list[dict]], bar) -> None:
        """Answers of the endpoint, several requests at a time.

        Raises InputError where the endpoint refuses or is silent.
        """
        stop, enough = threading.Event(), max(4, self.concurrency)
        number = failed = silent = 0  # prompts tried, without an answer, and these in a row
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = [
                pool.submit(self.request, key, messages, stop) for key, messages in waiting.items()
            ]
            try:
                for future in as_completed(futures):
                    reason, replied = future.result()
                    if reason == STOPPED:  # by a refusal of another prompt, which comes up here too
                        continue
                    number += 1
                    failed += reason is not None
                    silent = 0 if replied else silent + 1
                    useless = not self.answers and number >= min(enough, len(futures))
                    if useless or silent >= enough:
                        raise InputError(
                            f"{self.name}: no answer to {failed} of {number} prompts; "
                            f"the last: {reason}"
                        )
                    if failed:
                        bar.set_postfix(missing=failed, refresh=False)
                    bar.update()
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)  # answers on their way are kept

    def request(
        self, key: str, messages: list[dict], stop: threading.Event
    ) -> tuple[str | None, bool]:
        """Asks until an answer has come.

        Returns why no answer came (None: one did), and whether the server replied to the last try.
        """
        order = {"model": self.model, "messages": messages, "temperature": self.temperature}
        order |= {"max_tokens": self.max_new_tokens, "seed": self.seed_for(key)}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{self.name}/chat/completions", json.dumps(order).encode(), headers
        )
        if self.key:
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        for attempt in range(self.max_retries + 1):
            if stop.is_set():
                return STOPPED, True
            wait, replied = 0.0, False
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    body = response.read(MAX_BYTES)
                replied = True
                answer = read_reply(body)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code}: {self.message_of(error)}"
                if error.code < 500 and error.code not in TRY_AGAIN:
                    if error.code in THIS_PROMPT and self.answers:
                        return reason, True
                    stop.set()
                    raise InputError(f"{self.name}: {reason}") from None
                wait = seconds_to_wait(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = str(error) or type(error).__name__
            else:
                self.keep(key, *answer)
                return None, True
            if attempt < self.max_retries:
                backoff = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
                stop.wait(max(wait, backoff * random.Random(f"{key} {attempt}").uniform(0.5, 1.0)))
        return reason, replied

    def message_of(self, error: urllib.error.HTTPError) -> str:
        """What the server says, in one line, cut, and without the key."""
        text = ""
        with error, contextlib.suppress(OSError, http.client.HTTPException):
            text = " ".join(error.read(10_000).decode(errors="replace").split())
        return (text.replace(self.key, "***") if self.key else text)[:300]


def check_endpoint(name: str, model: str | None, key: str) -> None:
    """Raises InputError where no request could ever be sent."""
    try:
        parts = urllib.parse.urlsplit(name)
        usable = parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        raise InputError(f"{name}: not the URL of an endpoint")
    if not model:
        raise InputError(f"{name}: an endpoint needs the name of a model as well (--teacher_model)")
    if not (key.isascii() and key.isprintable()):
        raise InputError("OPENAI_API_KEY: holds characters that do not go into an HTTP header")


def encode(tokenizer, messages: list[dict]) -> list[int]:
    """Token ids of a conversation: by the chat template if there is one, else as plain text."""
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False).input_ids
    text = "\n\n".join(message["content"] for message in messages)
    return common.encode_prompt(tokenizer, {"prompt": text})


def read_reply(body: bytes) -> tuple[str, int, int]:
    """The answer in an endpoint's reply, and the tokens of prompt and answer (0: not said).

    Raises ValueError for a reply without an answer.
    """
    try:
        reply = json.loads(body)
        text, usage = reply["choices"][0]["message"]["content"], reply.get("usage")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"malformed reply: {body[:100].decode(errors='replace')!r}") from None
    if not isinstance(text, str) or not text.strip():
        raise ValueError("the answer is empty")
    usage = usage if isinstance(usage, dict) else {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    text = text.encode(errors="replace").decode()  # no file can hold half a surrogate pair
    return text, *(count if isinstance(count, int) else 0 for count in counts)


def seconds_to_wait(value: str | None) -> float:
    """A Retry-After header, seconds or a date, in seconds; 0 where there is none."""
    try:
        seconds = float(value or 0)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except ValueError:
            seconds = 0.0
    return max(0.0, min(seconds, LONGEST_RETRY_AFTER))
