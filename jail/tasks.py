"""What tasks and limits must be for the sandbox, and what can be read off a task's sources.

Runs in the caller's process. Imports wire.py and the standard library.
"""

from __future__ import annotations

import ast
import builtins
import functools
import marshal
import sys
import warnings

from jail.wire import MAX_MESSAGE, to_json

# Imports of unittest source that reaches into the program.
INSIDE_NAMES = "mock unittest.mock tempfile os shutil pathlib io sys subprocess warnings"
INSIDE_MODULES = frozenset(INSIDE_NAMES.split())
# What a verdict depends on, besides the program.
FIELDS = (
    *("task_id", "style", "setup", "preamble", "tests", "entry_point"),
    *("timeout", "test_timeout", "packages"),
)
MAX_SECONDS = 1_000_000_000  # a limit below fits what the system takes
MAX_MEMORY_MB = 1 << 40
MAX_TASK = MAX_MESSAGE // 2  # bytes of a task as it is sent to a judge
STYLES = ("assert", "call", "stdio", "unittest", "answer")


class SandboxError(RuntimeError):
    """The sandbox cannot start as asked. The message is one line."""


class TaskError(ValueError):
    """A task cannot be judged. The message is one line that names the field."""


def check_task(task: dict) -> None:
    """Raise TaskError, a one-line message that names the field, unless the task can be judged."""
    if not isinstance(task, dict):
        raise TaskError(f"a task must be an object, not {type(task).__name__}")
    name = task.get("task_id")
    if not isinstance(name, str):
        raise TaskError("task_id: missing or not a string")

    def fail(field, reason):
        raise TaskError(f"task {name}: {field}: {reason}")

    style = task.get("style")
    if style not in STYLES:
        fail("style", f"{style!r} is not one of {', '.join(STYLES)}")
    tests = task.get("tests")
    if not isinstance(tests, list) or not tests:
        fail("tests", "must be a list with at least one test")
    for field in ("setup", "preamble"):
        if not isinstance(task.get(field) or "", str):
            fail(field, "must be a string")
    entry_point = task.get("entry_point")
    parts = entry_point.split(".") if isinstance(entry_point, str) else [""]
    if entry_point is not None and not all(part.isidentifier() for part in parts):
        fail("entry_point", f"{entry_point!r} is not a name")
    packages = task.get("packages") or []
    if not isinstance(packages, list) or not all(isinstance(name, str) for name in packages):
        fail("packages", "must be a list of names")
    for field in ("timeout", "test_timeout"):
        seconds = task.get(field)
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is not None and not (number and 0 < seconds < MAX_SECONDS):
            fail(field, f"{seconds!r} is not a number of seconds above 0 and below {MAX_SECONDS}")
    if task.get("test_timeout") and style not in ("call", "stdio"):
        fail("test_timeout", f"the {style} style has none")
    if style == "call" and not entry_point:
        fail("entry_point", "the call style needs one")
    for index, test in enumerate(tests):
        field = f"tests[{index}]"
        if style == "unittest" and isinstance(test, dict):
            if not isinstance(test.get("code"), str) or not test["code"].strip():
                fail(f"{field}.code", "must be Python source")
        elif style in ("assert", "unittest"):
            if not isinstance(test, str) or not test.strip():
                fail(field, "must be Python source")
        elif not isinstance(test, dict):
            fail(field, "must be an object")
        elif style == "call":
            if not isinstance(test.get("args"), list):
                fail(f"{field}.args", "must be a list")
            if "output" not in test:
                fail(f"{field}.output", "is missing")
            check_tolerances(test, field, fail)
        else:
            for key in ("input", "output") if style == "stdio" else ("answer",):
                if not isinstance(test.get(key), str):
                    fail(f"{field}.{key}", "must be a string")
            try:
                test.get("input", "").encode()
            except UnicodeEncodeError as error:
                fail(f"{field}.input", f"is no text that UTF-8 can write: {error.reason}")
            if not isinstance(test.get("blank_lines", True), bool):
                fail(f"{field}.blank_lines", "must be true or false")
            check_tolerances(test, field, fail)
    for field in ("setup", "preamble"):
        for code in compile_sources((task.get(field) or "",), field):
            if isinstance(code, str):
                fail(field, code)
    sources = test_sources(task)
    codes = compile_sources(sources, "test")
    for index, code in enumerate(codes):
        if isinstance(code, str):
            fail(f"tests[{index}]", code)
    if style == "unittest" and not any(map(unittest_methods, sources)):
        fail("tests", "hold no test method of a TestCase class")
    in_judge = style in ("assert", "call", "unittest")
    if in_judge and not (style == "unittest" and any(map(needs_inside, tests))):
        for index, source in enumerate((task.get("setup") or "", *sources)):
            for name in foreign_imports(source):
                reason = f"imports {name}, which the judge lacks: it has the standard library alone"
                fail(f"tests[{index - 1}]" if index else "setup", reason)
    try:
        as_sent = codes if sources else tests
        size = max(len(to_json([task.get(key) for key in FIELDS])), len(marshal.dumps(as_sent)))
    except (TypeError, ValueError, RecursionError) as error:
        fail("tests", f"not JSON: {error}")
    if size > MAX_TASK:
        fail("tests", f"{size} bytes exceed {MAX_TASK}")


def check_limits(workers: int, timeout: float, memory_mb: int) -> None:
    """Raise SandboxError unless a sandbox can keep to the limits."""
    if workers < 1:
        raise SandboxError(f"workers: {workers!r} is not at least 1")
    if not 0 < timeout < MAX_SECONDS:
        raise SandboxError(f"timeout: {timeout!r} is not above 0 and below {MAX_SECONDS}")
    if not 64 <= memory_mb < MAX_MEMORY_MB:
        raise SandboxError(f"memory_mb: {memory_mb!r} is not at least 64 and below {MAX_MEMORY_MB}")


@functools.lru_cache(maxsize=1024)
def foreign_imports(source: str) -> list[str]:
    """Packages beyond the standard library that the source imports, outside of a `try`."""
    if "import" not in source:
        return []
    found, todo = [], [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found += [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or ".")
        elif not isinstance(node, ast.Try):
            todo += ast.iter_child_nodes(node)
    return [name for name in found if name.partition(".")[0] not in sys.stdlib_module_names]


def check_tolerances(test: dict, field: str, fail) -> None:
    """Call `fail` unless the tolerances of a test are numbers of at least 0."""
    for name in ("atol", "rtol"):
        value = test.get(name) or 0.0
        if not isinstance(value, (int, float)) or not value >= 0:
            fail(f"{field}.{name}", "must be a number of at least 0")


def test_sources(task: dict) -> tuple[str, ...]:
    """The tests that are Python source."""
    if task["style"] not in ("assert", "unittest"):
        return ()
    return tuple(test["code"] if isinstance(test, dict) else test for test in task["tests"])


@functools.lru_cache(maxsize=1024)
def compile_sources(sources: tuple[str, ...], name: str) -> list:
    """The marshalled code of each source, in which `name` is the file; a reason where it is none.

    Remembered: a task is checked where its file is read, and prepared where it is submitted.
    """
    codes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of doubtful escapes, which are the benchmark's own
        for index, source in enumerate(sources):
            file = f"<test {index}>" if name == "test" else f"<{name}>"
            lines = (line.strip() for line in source.splitlines())
            if name == "test" and all(not line or line[0] == "#" for line in lines):
                codes.append("holds no statement")
                continue
            try:
                codes.append(marshal.dumps(compile(source, file, "exec", dont_inherit=True)))
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                codes.append(f"does not compile: {str(error)[:200]}")
    return codes


def prepare(task: dict) -> dict:
    """What the judge needs of a checked task, computed once: its sources are code, marshalled.

    names: what the program must give the values of. labels: the beginning of each source.
    inside: whether the tests must run in the program's own process. classes: their classes.
    stops: whether a test names StopIteration. total: the tests, of style unittest the test methods
    that the sources show.
    """
    style, tests, setup = task["style"], task["tests"], task.get("setup") or ""
    entry_point = task.get("entry_point")
    sources = test_sources(task)
    codes = compile_sources(sources, "test")
    methods, classes = [], []
    if style == "unittest":
        methods = [name for source in sources for name in unittest_methods(source)]
        nodes = [node for source in sources for node in ast.parse(source).body]
        classes = sorted({node.name for node in nodes if isinstance(node, ast.ClassDef)})
    setup_code = compile_sources((setup,), "setup")[0]
    names = free_names([setup, *sources], [setup_code, *codes])
    if entry_point:
        names.update({entry_point.split(".")[0], entry_point.split(".")[-1]})
    return {
        "style": style,
        "setup": setup_code if setup.strip() else None,
        "preamble": task.get("preamble") or "",
        "tests": list(codes) if sources else tests,
        "labels": [source.strip()[:200] for source in sources],
        "names": sorted(names),
        "entry_point": entry_point,
        "inside": style == "unittest" and any(map(needs_inside, tests)),
        "test_timeout": task.get("test_timeout"),
        "classes": classes,
        "stops": any("StopIteration" in source for source in (setup, *sources)),
        "total": len(methods) or len(tests),
    }


def free_names(sources: list[str], codes: list) -> set[str]:
    """Names that the sources read, do not define, and do not find among the builtins.

    codes: what compile_sources says of the sources.
    """
    read, defined = set(), set(vars(builtins)) | {"__name__", "__file__", "__memory__"}
    for source, code in zip(sources, codes, strict=True):
        # Benchmarks have thousands of tests with the same names; a walk through each is slow.
        if isinstance(code, str) or names_of(marshal.loads(code)) <= read | defined:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name):
                (read if isinstance(node.ctx, ast.Load) else defined).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                defined.add(node.name)
            elif isinstance(node, ast.arg):
                defined.add(node.arg)
            elif isinstance(node, ast.alias):
                defined.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.ExceptHandler) and node.name:
                defined.add(node.name)
    return read - defined


def names_of(code) -> set[str]:
    """The global names and attributes in a code object, and in those inside it."""
    inner = [names_of(constant) for constant in code.co_consts if isinstance(constant, type(code))]
    return set(code.co_names).union(*inner)


def needs_inside(test: str | dict) -> bool:
    """Whether a unittest test patches what the program calls, shares files, or says so itself."""
    if isinstance(test, dict):
        return True
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Import) and any(item.name in INSIDE_MODULES for item in node.names):
            return True
        if isinstance(node, ast.ImportFrom):
            mock = node.module == "unittest" and any(item.name == "mock" for item in node.names)
            if mock or node.module in INSIDE_MODULES:
                return True
        if isinstance(node, ast.Name) and node.id in ("patch", "open", "mock"):
            return True
    return False


def unittest_methods(source: str) -> list[str]:
    """Names of the test methods in the source, as "Class.test_name", each name once."""
    names = [
        f"{node.name}.{item.name}"
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
        and item.name.startswith("test")
    ]
    return list(dict.fromkeys(names))


def prompt_helpers(prompt: str, entry_point: str) -> str:
    """Source of what a code prompt defines besides the entry point, for `setup`."""
    kept = [node for node in ast.parse(prompt).body if getattr(node, "name", None) != entry_point]
    return "".join(ast.unparse(node) + "\n" for node in kept)
