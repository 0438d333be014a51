"""Honest programs, however unusual, pass: a strict sandbox is tempted to break each of these."""

import pytest
import test_sandbox_attacks as attacks

# name: (program, tests), style assert with the entry point f
HONEST = {
    "plain": ("def f(x): return x + 1", ["assert f(1) == 2"]),
    "equal numbers of different types": ("def f(x): return float(x)", ["assert f(2) == 2"]),
    "a big integer": (
        "def f(x): return 7 ** x",
        ["assert f(50000) == 7 ** 50000", "assert f(2000) % 10 == 1"],
    ),
    "a negative big integer": (
        "def f(x): return -(1 << x)",
        ["assert f(62) == -(1 << 62) and f(63) == -(1 << 63)"],
    ),
    "infinity and not a number": (
        "def f(x): return [float('inf'), float('nan')]",
        ["a, b = f(0)\nassert a > 9 and b != b"],
    ),
    "negative zero": ("def f(): return -0.0", ["import math\nassert math.copysign(1, f()) == -1"]),
    "complex": ("def f(x): return complex(x, 2)", ["assert f(1) == 1 + 2j"]),
    "bytes": (
        "def f(x): return x[::-1] + bytearray(b'\\xff')",
        ["assert f(b'\\0a') == b'a\\0\\xff'"],
    ),
    "surrogates": ("def f(x): return x + '\\ud800é\\0'", ["assert f('ü') == 'ü\\ud800é\\0'"]),
    "tuples in sets in lists": (
        "def f(x): return [{(1, x)}, frozenset([x])]",
        ["assert f(2) == [{(1, 2)}, frozenset([2])]"],
    ),
    "a tuple is no list": ("def f(x): return (x,)", ["assert f(1) == (1,) and f(1) != [1]"]),
    "keys of all kinds": (
        "def f(): return {1: 2, (3, 4): 5, None: 6, 'a': 7, 1.5: 8, True: 9}",
        ["assert f() == {1: 9, (3, 4): 5, None: 6, 'a': 7, 1.5: 8}"],
    ),
    "order of keys": (
        "def f(x): return dict(sorted(x.items()))",
        ["assert list(f({'b': 1, 'a': 2})) == ['a', 'b']"],
    ),
    "Counter": (
        "from collections import Counter\ndef f(x): return Counter(x)",
        [
            "from collections import Counter\n"
            "assert f('aab') == Counter('aab') and f('aab').most_common(1) == [('a', 2)]"
        ],
    ),
    "defaultdict and OrderedDict": (
        "from collections import *\ndef f(x):\n    d = defaultdict(list)\n"
        "    d[x].append(1)\n    return d, OrderedDict(a=x)",
        ["d, o = f(3)\nassert d == {3: [1]} and d[4] == [] and o == {'a': 3}"],
    ),
    "deque": (
        "from collections import deque\ndef f(x): return deque(x, maxlen=2)",
        ["from collections import deque\nassert f([1, 2, 3]) == deque([2, 3])"],
    ),
    "namedtuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, 2)",
        ["assert f(1) == (1, 2)"],
    ),
    "Decimal and Fraction": (
        "from decimal import *\nfrom fractions import *\n"
        "def f(x): return Decimal('0.1') + x, Fraction(x, 3)",
        [
            "from decimal import *\nfrom fractions import *\n"
            "assert f(1) == (Decimal('1.1'), Fraction(1, 3))"
        ],
    ),
    "dates": (
        "from datetime import *\n"
        "def f(d): return d + timedelta(days=1), datetime(2020, 1, 2, 3), date(2020, 1, 1)",
        [
            "from datetime import *\na, b, c = f(date(2020, 2, 28))\n"
            "assert a == date(2020, 2, 29) and b.hour == 3 and c.year == 2020"
        ],
    ),
    "range and slice": (
        "def f(x): return range(x), [1, 2, 3][slice(x)]",
        ["assert f(2) == (range(2), [1, 2])"],
    ),
    "a type as value": (
        "def f(x): return type(x)",
        ["assert f(1) is int and f('') == str and f(None) is type(None)"],
    ),
    "bool subclass of int": ("def f(x): return x > 1", ["assert f(2) is True and f(0) is False"]),
    "int enumeration": (
        "from enum import IntEnum\nclass E(IntEnum):\n    A = 3\ndef f(): return E.A",
        ["assert f() == 3"],
    ),
    "Ellipsis": ("def f(): return ...", ["assert f() is ..."]),
    "a changed argument": (
        "def f(x): x.sort()",
        ["x = [3, 1]\nassert f(x) is None\nassert x == [1, 3]"],
    ),
    "a changed nested argument": (
        "def f(x): x['a'][0].add(5)",
        ["s = {1}\nx = {'a': [s]}\nf(x)\nassert s == {1, 5} and x['a'][0] is s"],
    ),
    "a changed bytearray": (
        "def f(x): x.extend(b'!')",
        ["b = bytearray(b'a')\nf(b)\nassert b == b'a!'"],
    ),
    "a changed type of number": (
        "def f(x): x[0] = 1.0",
        ["x = [1]\nf(x)\nassert type(x[0]) is float"],
    ),
    "an unchanged argument": (
        "def f(x): return sorted(x)",
        ["x = [3, 1]\nassert f(x) == [1, 3] and x == [3, 1]"],
    ),
    "the argument itself": (
        "def f(x): return x",
        ["x = [1]\nassert f(x) is x", "y = {}\nassert f([y])[0] is y"],
    ),
    "aliased arguments": (
        "def f(a, b):\n    a.append(1)\n    return b",
        ["x = []\nassert f(x, x) is x and x == [1]"],
    ),
    "keyword arguments": (
        "def f(a, *, b=1, **c): return a + b + sum(c.values())",
        ["assert f(1, b=2, z=3) == 6 and f(1) == 2"],
    ),
    "a lambda of the tests": (
        "def f(g, x): return [g(y) for y in x]",
        ["assert f(lambda y: y * 2, [1, 2]) == [2, 4]"],
    ),
    "a lambda as sort key": (
        "def f(x, key): return sorted(x, key=key)",
        ["assert f(['aa', 'b'], len) == ['b', 'aa']", "assert f([1, 2], lambda v: -v) == [2, 1]"],
    ),
    "a lambda that raises": (
        "def f(g):\n    try:\n        return g()\n    except ZeroDivisionError:\n"
        "        return 'caught'",
        ["assert f(lambda: 1 / 0) == 'caught'"],
    ),
    "a callback that calls back": (
        "def f(g, n): return g(n) if n else 0",
        ["def g(n): return 1 + f(g, n - 1)\nassert f(g, 20) == 20"],
    ),
    "an iterator of the tests": (
        "def f(it): return next(it) + sum(it)",
        ["assert f(iter([1, 2, 3])) == 6", "assert f(x * x for x in range(4)) == 14"],
    ),
    "an object of the tests": (
        "def f(p):\n    p.x += 1\n    return p.norm() + p.x",
        [
            "class P:\n    x = 2\n    def norm(self): return self.x * 10\np = P()\n"
            "assert f(p) == 33 and p.x == 3"
        ],
    ),
    "a generator": (
        "def f(n):\n    for i in range(n): yield i",
        ["assert list(f(3)) == [0, 1, 2] and next(f(1)) == 0", "assert sum(f(4)) == 6"],
    ),
    "an endless generator": (
        "def f():\n    i = 0\n    while True:\n        yield i\n        i += 1",
        ["from itertools import islice\nassert list(islice(f(), 3)) == [0, 1, 2]"],
    ),
    "map and zip": (
        "def f(x): return zip(x, map(str, x))",
        ["assert list(f([1, 2])) == [(1, '1'), (2, '2')]"],
    ),
    "a view of a dictionary": (
        "def f(d): return d.keys()",
        ["assert sorted(f({2: 1, 1: 1})) == [1, 2]"],
    ),
    "a closure": (
        "def f(n):\n    count = [n]\n    def g():\n        count[0] += 1\n"
        "        return count[0]\n    return g",
        ["g = f(1)\nassert g() == 2 and g() == 3"],
    ),
    "a decorator": (
        "import functools\ndef f(g):\n    @functools.wraps(g)\n"
        "    def h(*a): return g(*a) + 1\n    return h",
        ["assert f(lambda x: x)(1) == 2"],
    ),
    "a class": (
        "class f:\n    def __init__(self, x): self.x = x\n"
        "    def get(self): return self.x\n    def __len__(self): return 3",
        [
            "o = f(4)\nassert o.get() == 4 and o.x == 4 and len(o) == 3",
            "o = f(1)\no.x = [5]\nassert o.get() == [5]",
        ],
    ),
    "an object passed back": (
        "class Node:\n    def __init__(self, v): self.v, self.next = v, None\n"
        "def f(n): return n.v if n.next is None else f(n.next)",
        ["a, b = Node(1), Node(2)\na.next = b\nassert f(a) == 2 and a.next is b"],
    ),
    "objects in containers": (
        "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
        "def f(ps): return max(p.a - p.b for p in ps)",
        ["assert f([Pair(5, 1), Pair(3, 2)]) == 4"],
    ),
    "operators of a class": (
        "class V:\n    def __init__(self, x): self.x = x\n"
        "    def __add__(self, o): return V(self.x + o.x)\n"
        "    def __eq__(self, o): return self.x == o.x\ndef f(x): return V(x)",
        ["assert (f(1) + f(2)).x == 3", "assert f(1) == V(1) and f(1) != V(2)"],
    ),
    "a context manager": (
        "class f:\n    def __enter__(self): return self\n"
        "    def __exit__(self, *a): self.done = True",
        ["with f() as c: pass\nassert c.done"],
    ),
    "isinstance of its own class": (
        "class A: pass\nclass B(A): pass\ndef f(): return B()",
        ["assert isinstance(f(), A) and not isinstance(f(), int)"],
    ),
    "a dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass D:\n    x: int\n"
        "def f(x): return D(x)",
        ["assert f(1).x == 1 and f(1) == D(1) and repr(f(2)) == 'D(x=2)'"],
    ),
    "its own exception": (
        "class Bad(ValueError): pass\ndef f(x): raise Bad('no', x)",
        [
            "try:\n    f(1)\nexcept Bad as e:\n    assert e.args == ('no', 1)\nelse:\n"
            "    assert False",
            "try:\n    f(1)\nexcept ValueError:\n    pass",
        ],
    ),
    "a builtin exception": (
        "def f(d, k): return d[k]",
        [
            "try:\n    f({}, 'k')\nexcept KeyError as e:\n    assert str(e) == \"'k'\"\n"
            "else:\n    assert False"
        ],
    ),
    "an exception that it handles": (
        "import sys\ndef f():\n    try:\n        sys.exit(3)\n    except SystemExit as e:\n"
        "        return e.code",
        ["assert f() == 3"],
    ),
    "printed noise": (
        "import sys\nprint('x' * 100000)\nsys.stderr.write('y' * 100000)\ndef f():\n"
        "    print('passed')\n    return 1",
        ["assert f() == 1"],
    ),
    "empty standard input": (
        "import sys\nraw = sys.stdin.read()\ntry:\n    input()\nexcept EOFError:\n"
        "    raw += 'end'\ndef f(): return raw",
        ["assert f() == 'end'"],
    ),
    "binary standard streams": (
        "import sys\ndef f():\n    sys.stdout.buffer.write(b'x')\n"
        "    return sys.stdin.buffer.read()",
        ["assert f() == b''"],
    ),
    "a main guard": (
        "def f(): return __name__\nif __name__ == '__main__':\n    raise SystemExit",
        ["assert f() != '__main__'"],
    ),
    "recursion to depth 5000": (
        "import sys\nsys.setrecursionlimit(20000)\ndef f(n): return n and 1 + f(n - 1)",
        ["assert f(5000) == 5000"],
    ),
    "recursion at the default limit": (
        "def f(n): return n and 1 + f(n - 1)",
        ["assert f(900) == 900"],
    ),
    "a large stack in a thread": (
        "import sys, threading\nsys.setrecursionlimit(10 ** 6)\nthreading.stack_size(1 << 26)\n"
        "def f(n):\n    out = []\n    g = lambda n: n and 1 + g(n - 1)\n"
        "    t = threading.Thread(target=lambda: out.append(g(n)))\n    t.start()\n"
        "    t.join()\n    return out[0]",
        ["assert f(20000) == 20000"],
    ),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\ndef f(x):\n"
        "    with ThreadPoolExecutor(4) as pool: return list(pool.map(abs, x))",
        ["assert f([-1, 2]) == [1, 2]"],
    ),
    "threads and callbacks": (
        "from concurrent.futures import ThreadPoolExecutor\ndef f(g, x):\n"
        "    with ThreadPoolExecutor(4) as pool:\n"
        "        return list(pool.map(g, x))",
        ["assert f(lambda v: -v, range(20)) == [-v for v in range(20)]"],
    ),
    "a thread that outlives the call": (
        "import threading, time\ndef f():\n"
        "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "    return 1",
        ["assert f() == 1"],
    ),
    "asyncio": (
        "import asyncio\nasync def g(x):\n    await asyncio.sleep(0.001)\n    return x\ndef f(x):\n"
        "    async def main(): return await asyncio.gather(*map(g, x))\n"
        "    return asyncio.run(main())",
        ["assert f([1, 2]) == [1, 2]"],
    ),
    "an alarm": (
        "import signal\ndef f():\n    def on(*a): raise TimeoutError\n"
        "    signal.signal(signal.SIGALRM, on)\n"
        "    try:\n        signal.setitimer(0, 0.01)\n        while True: pass\n"
        "    except TimeoutError:\n        return 1",
        ["assert f() == 1"],
    ),
    "temporary files": (
        "import tempfile, os\ndef f(text):\n"
        "    with tempfile.NamedTemporaryFile('w+') as t:\n        t.write(text)\n"
        "        t.seek(0)\n"
        "        with tempfile.TemporaryDirectory() as d:\n"
        "            open(d + '/x', 'w').close()\n"
        "            return t.read(), os.listdir(d)",
        ["assert f('ab') == ('ab', ['x'])"],
    ),
    "files in the working directory": (
        "import os\ndef f():\n    with open('data.txt', 'w') as o: o.write('1\\n2\\n')\n"
        "    os.rename('data.txt', 'b.txt')\n"
        "    os.makedirs('a/b')\n"
        "    return [int(line) for line in open('b.txt')], sorted(os.listdir())",
        ["assert f() == ([1, 2], ['a', 'b.txt'])"],
    ),
    "a database in memory": (
        "import sqlite3\ndef f(x):\n    c = sqlite3.connect(':memory:')\n"
        "    c.execute('create table t(a)')\n"
        "    c.execute('insert into t values (?)', (x,))\n"
        "    return c.execute('select a from t').fetchall()",
        ["assert f(3) == [(3,)]"],
    ),
    "imports of all kinds": (
        "import array, base64, bisect, csv, ctypes, decimal, difflib, email, fractions, "
        "hashlib, heapq, html, io, itertools, json, "
        "logging, operator, pickle, pprint, queue, random, secrets, statistics, struct, "
        "textwrap, time, timeit, typing, unittest, urllib.parse, "
        "uuid, xml.etree.ElementTree, zlib, zoneinfo, lzma, bz2, ssl\n"
        "def f(x): return hashlib.sha256(x).hexdigest()[:4]",
        ["assert f(b'') == 'e3b0'"],
    ),
    "pickle of its own class": (
        "import pickle, copy\nclass A:\n    x = 1\ndef f():\n"
        "    return pickle.loads(pickle.dumps(A())).x + copy.deepcopy(A()).x",
        ["assert f() == 2"],
    ),
    "random numbers": (
        "import random, secrets\ndef f():\n    random.seed(1)\n"
        "    return random.randint(0, 9) == random.Random(1).randint(0, 9) and "
        "secrets.randbelow(5) < 5",
        ["assert f()"],
    ),
    "time": (
        "import time, datetime\ndef f():\n    a = time.perf_counter()\n"
        "    time.sleep(0.01)\n"
        "    return time.perf_counter() - a > 0.005 and datetime.datetime.now().year > 2000",
        ["assert f()"],
    ),
    "type hints and future imports": (
        "from __future__ import annotations\nfrom typing import *\n"
        "def f(x: List[Undefined]) -> Foo: return x[0]",
        ["assert f([1]) == 1"],
    ),
    "CRLF and tabs": (
        "def f(x):\r\n\tif x:\r\n\t\treturn 1\r\n\treturn 2\r\n",
        ["assert f(0) == 2"],
    ),
    "a coding line and a byte order mark": (
        "\ufeff# -*- coding: latin-1 -*-\ndef f(): return 'ä'",
        ["assert f() == 'ä'"],
    ),
    "a name like a builtin": (
        "def f(x): return sum(x)\ndef sum(x): return 42",
        ["assert f([1]) == 42 and sum([1, 2]) == 3"],
    ),
    "global state between tests": (
        "n = 0\ndef f():\n    global n\n    n += 1\n    return n",
        ["assert f() == 1", "assert f() == 2"],
    ),
    "a constant that the tests read": (
        "LIMIT = 7\ndef f(x): return x < LIMIT",
        ["assert f(LIMIT - 1) and LIMIT == 7"],
    ),
    "a module that the tests use": (
        "import math\ndef f(x): return math.pi * x",
        ["assert f(2) == math.pi * 2"],
    ),
    "a function that rounds": (
        "def f(x): return round(x / 3, 2)",
        ["assert abs(f(1) - 0.33) < 1e-9 and round(f(2), 1) == 0.7"],
    ),
    "caching": (
        "from functools import lru_cache\n@lru_cache(None)\n"
        "def f(n): return n if n < 2 else f(n - 1) + f(n - 2)",
        ["assert f(200) == 280571172992510140037611932413038677189525"],
    ),
    "a large argument": (
        "def f(x): return sum(x)",
        ["assert f(list(range(200000))) == 19999900000"],
    ),
    "a large result": (
        "def f(n): return [[i, str(i)] for i in range(n)]",
        ["r = f(100000)\nassert len(r) == 100000 and r[7] == [7, '7']"],
    ),
    "many calls": ("def f(x): return x + 1", ["for i in range(2000): assert f(i) == i + 1"]),
    "a program that hides the harness": (
        "import sys\nfor name in list(sys.modules):\n"
        "    if name not in ('sys', 'builtins'): sys.modules.pop(name)\ndef f(): return 1",
        ["assert f() == 1"],
    ),
    "a class called as call style": (
        "class Solution:\n    def f(self, x): return x\ndef f(x): return Solution().f(x)",
        ["assert f(1) == 1"],
    ),
}


folder = attacks.folder  # the fixture


@pytest.mark.parametrize("condition", attacks.CONDITIONS)
def test_honest_programs_pass(folder, condition):
    assert len(HONEST) >= 50
    pairs = []
    for name, (program, tests) in HONEST.items():
        task = {
            "task_id": name,
            "style": "assert",
            "setup": "",
            "tests": tests,
            "entry_point": "f",
            "timeout": 5,
        }
        pairs.append((task, program))
    verdicts = attacks.judged(folder, pairs, condition)
    wrong = {
        name: verdict
        for name, verdict in zip(HONEST, verdicts, strict=True)
        if verdict["status"] != "passed"
    }
    assert not wrong
