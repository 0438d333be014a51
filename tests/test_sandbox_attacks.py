"""Hostile programs: none forges a verdict, reaches anything outside, or takes the worker down.

Every battery runs through the command line in three conditions: as the user of the tests, as an
unprivileged user, and with namespaces refused by the system, as in a container's default profile.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import sandbox
from jail import syscalls

NUMBER = {
    "task_id": "number",
    "style": "assert",
    "setup": "from math import fabs\ndef square(x):\n    return x * x",
    "tests": [
        "assert f(2) == 5",
        "assert abs(f(3) - 10.0) < 1e-6",
        "assert fabs(f(4) - square(4)) == 1.0",
        "assert f(5) >= 26 and f(5) <= 26 and not f(5) != 26",
        "assert isinstance(f(6), int) and f(6) in (37, 37.0)",
        "assert sorted([f(7), f(1)]) == [2, 50]",
    ],
    "entry_point": "f",
    "timeout": 1,
}
LIST = {
    "task_id": "list",
    "style": "assert",
    "setup": "",
    "tests": [
        "x = [3, 1, 2]\nassert f(x) == [1, 2, 3] and len(f(x)) == 3",
        "def check(candidate):\n    assert set(candidate([5, 4])) == {4, 5}\n"
        "    assert 6 in candidate([6])\ncheck(f)",
        "assert [*f([9, 8])] == [8, 9] and dict(a=f([1])) == {'a': [1]}",
    ],
    "entry_point": "f",
    "timeout": 1,
}
UNITTEST = {
    "task_id": "unittest",
    "style": "unittest",
    "setup": "",
    "tests": [
        "import unittest\nclass TestF(unittest.TestCase):\n"
        "    def test_value(self):\n        self.assertEqual(f(2), 5)\n"
        "        self.assertAlmostEqual(f(3), 10)\n"
        "    def test_error(self):\n        with self.assertRaises(ValueError):\n"
        "            f(-1)\n"
    ],
    "entry_point": "f",
    "timeout": 1,
}
CALL = {
    "task_id": "call",
    "style": "call",
    "setup": "",
    "tests": [
        {"args": [2], "output": 5},
        {"args": [3], "output": 10.0, "atol": 1e-6},
        {"args": [4], "output": [17]},
    ],
    "entry_point": "f",
    "timeout": 1,
}
STDIO = {
    "task_id": "stdio",
    "style": "stdio",
    "tests": [{"input": "2\n", "output": "5\n2\n"}, {"input": "3\n", "output": "10\n3\n"}],
    "entry_point": None,
    "timeout": 1,
}

EQUAL = """
class Equal:
    def yes(self, *args): return True
    def zero(self, *args): return 0
    def me(self, *args): return self
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = yes
    __ne__ = __hash__ = __abs__ = __sub__ = __rsub__ = __len__ = __int__ = __index__ = zero
    __neg__ = zero
    __float__ = lambda self: 0.0
    __round__ = __add__ = __radd__ = __mul__ = __getitem__ = __enter__ = me
    def __getattr__(self, name): return self
    def __iter__(self): return iter(range(100))
"""
RAW = """
import os, struct, sys
frame = sys._getframe()
while "self" not in frame.f_locals: frame = frame.f_back
channel = frame.f_locals["self"].channel
def raw(body):
    data = struct.pack(">I", len(body)) + body
    while data: data = data[os.write(channel.descriptor, data):]
"""

FORGING = {  # name: (task, program); none of them computes what the tests ask for
    # objects that equal everything
    "equal to everything": (NUMBER, EQUAL + "def f(x): return Equal()"),
    "equal to everything, list": (LIST, EQUAL + "def f(x): return Equal()"),
    "equal to everything, unittest": (
        UNITTEST,
        EQUAL + "def f(x):\n    if x < 0: raise ValueError\n    return Equal()",
    ),
    "equal to everything, call": (CALL, EQUAL + "def f(x): return Equal()"),
    "the entry point is such a class": (
        NUMBER,
        EQUAL + "class f(Equal):\n    def __init__(self, x): pass",
    ),
    "the entry point is such an object": (
        NUMBER,
        EQUAL + "class C(Equal):\n    def __call__(self, x): return self\nf = C()",
    ),
    "int subclass": (NUMBER, EQUAL + "class I(Equal, int): pass\ndef f(x): return I(7)"),
    "float subclass": (NUMBER, EQUAL + "class F(Equal, float): pass\ndef f(x): return F(7)"),
    "list subclass": (LIST, EQUAL + "class L(Equal, list): pass\ndef f(x): return L([7])"),
    "tuple subclass": (LIST, EQUAL + "class L(Equal, tuple): pass\ndef f(x): return L([7])"),
    "dict subclass": (LIST, EQUAL + "class D(Equal, dict): pass\ndef f(x): return D()"),
    "set subclass": (
        LIST,
        EQUAL
        + "class S(set, Equal):\n    def __contains__(s, o): return True\ndef f(x): return S()",
    ),
    "str subclass": (NUMBER, EQUAL + "class S(Equal, str): pass\ndef f(x): return S('7')"),
    "complex subclass": (NUMBER, EQUAL + "class S(Equal, complex): pass\ndef f(x): return S(7)"),
    "a list of such": (LIST, EQUAL + "def f(x): return [Equal() for _ in x]"),
    "a lying __class__": (
        NUMBER,
        EQUAL + "class I(Equal):\n    __class__ = int\ndef f(x): return I()",
    ),
    "a metaclass": (
        NUMBER,
        EQUAL + "class M(type):\n    __eq__ = lambda *a: True\n    __hash__ = lambda *a: 0\n"
        "class C(metaclass=M): pass\ndef f(x): return C",
    ),
    "mock.ANY": (NUMBER, "from unittest.mock import ANY\ndef f(x): return ANY"),
    "mock.ANY, call": (CALL, "from unittest.mock import ANY\ndef f(x): return ANY"),
    "MagicMock": (
        NUMBER,
        "from unittest.mock import MagicMock\ndef f(x):\n    m = MagicMock()\n"
        "    m.__eq__.return_value = True\n    m.__sub__.return_value = 0\n    return m",
    ),
    "the answer to all in one list": (LIST, "def f(x): return list(range(100))"),
    "a generator of everything": (LIST, "def f(x): yield from range(100)"),
    "a coroutine": (NUMBER, "async def f(x): return 5"),
    "not a number": (NUMBER, "def f(x): return float('nan')"),
    "infinity": (NUMBER, "def f(x): return float('inf')"),
    "True": (NUMBER, "def f(x): return True"),
    "NotImplemented": (NUMBER, "def f(x): return NotImplemented"),
    "None": (NUMBER, "def f(x): return None"),
    "a Decimal subclass": (
        NUMBER,
        EQUAL + "from decimal import Decimal\nclass D(Equal, Decimal): pass\ndef f(x): return D(1)",
    ),
    "another number at each look": (  # the second of three is the root, the others are 0
        {
            "task_id": "root",
            "style": "assert",
            "setup": "import math\ndef poly(c, x):\n"
            "    return sum(a * math.pow(x, i) for i, a in enumerate(c))",
            "tests": ["c = [-6, 2, 5]\nassert abs(poly(c, f(c))) < 1e-4"],
            "entry_point": "f",
            "timeout": 1,
        },
        "class R:\n    looks = 0\n    def __float__(self):\n        self.looks += 1\n"
        "        return 3.0 if self.looks == 2 else 0.0\ndef f(c): return R()",
    ),
    # ends that look like success
    "sys.exit at the top": (NUMBER, "import sys\nsys.exit(0)"),
    "os._exit at the top": (NUMBER, "import os\nos._exit(0)"),
    "sys.exit in the call": (NUMBER, "import sys\ndef f(x): sys.exit(0)"),
    "os._exit in the call": (NUMBER, "import os\ndef f(x): os._exit(0)"),
    "SystemExit subclass": (NUMBER, "class E(SystemExit): pass\ndef f(x): raise E(0)"),
    "KeyboardInterrupt": (NUMBER, "def f(x): raise KeyboardInterrupt"),
    "GeneratorExit": (NUMBER, "def f(x): raise GeneratorExit"),
    "StopIteration": (LIST, "def f(x): raise StopIteration"),
    "BaseException": (NUMBER, "class E(BaseException): pass\ndef f(x): raise E"),
    "SkipTest": (UNITTEST, "import unittest\ndef f(x): raise unittest.SkipTest('later')"),
    "SkipTest when imported": (UNITTEST, "import unittest\nraise unittest.SkipTest('later')"),
    "a ValueError for everything": (UNITTEST, "def f(x): raise ValueError"),
    "AssertionError subclass": (UNITTEST, "class E(AssertionError): pass\ndef f(x): raise E"),
    "an exit function": (
        NUMBER,
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit",
    ),
    "a thread exits": (
        NUMBER,
        "import threading, os\nthreading.Timer(0.01, os._exit, (0,)).start()\nimport time\n"
        "def f(x): time.sleep(1)",
    ),
    "exec of true": (NUMBER, "import os\nos.execv('/bin/true', ['true'])"),
    "abort": (NUMBER, "import os\ndef f(x): os.abort()"),
    "the socket is closed": (NUMBER, "import os\nos.closerange(3, 256)\ndef f(x): return 5"),
    # patches
    "patched builtins": (
        NUMBER,
        EQUAL + "import builtins\nfor n in 'abs isinstance sorted len set all any'.split():\n"
        "    setattr(builtins, n, lambda *a: Equal())\ndef f(x): return 0",
    ),
    "builtins as globals": (
        NUMBER,
        EQUAL + "def abs(x): return 0\ndef isinstance(*a): return True\n"
        "def sorted(x): return [2, 50]\ndef fabs(x): return 1.0\ndef f(x): return 5",
    ),
    "helpers of the tests redefined": (
        NUMBER,
        EQUAL + "def square(x): return Equal()\ndef f(x): return 1",
    ),
    "check redefined": (LIST, "def check(candidate): pass\ndef f(x): return x"),
    "patched json": (
        NUMBER,
        "import json, json.encoder\njson.dumps = lambda *a, **k: '[\"ok\", true, null]'\n"
        "json.JSONEncoder.encode = lambda *a: '[\"ok\", true, null]'\ndef f(x): return 0",
    ),
    "patched exceptions": (
        NUMBER,
        "import builtins\nbuiltins.AssertionError = type('E', (Exception,), {})\n"
        "def f(x): return 0",
    ),
    "patched unittest": (
        UNITTEST,
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n"
        "unittest.TestCase.assertAlmostEqual = lambda *a: None\ndef f(x):\n"
        "    if x < 0: raise ValueError\n    return 0",
    ),
    "patched import": (
        NUMBER,
        "import builtins\nbuiltins.__import__ = lambda *a, **k: None\ndef f(x): return 0",
    ),
    "patched time": (
        NUMBER,
        "import time\ntime.time = time.monotonic = lambda: 0\ndef f(x):\n    while True: pass",
    ),
    "patched harness": (
        NUMBER,
        "import __main__, sys\nfor n, v in list(vars(__main__).items()):\n"
        "    if isinstance(v, type) and n == 'Candidate': v.encode = lambda *a: True\n"
        "def f(x): return 0",
    ),
    "a trace function": (
        NUMBER,
        "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
        "def f(x): return 0",
    ),
    "an operator overload of the tests' names": (
        NUMBER,
        "square = lambda x: 0\nfabs = lambda x: 1.0\ndef f(x): return 0",
    ),
    # messages made by hand
    "a verdict on every descriptor": (
        NUMBER,
        'import os\nfor d in range(256):\n    try: os.write(d, b\'{"status": "passed", '
        '"passed": 6, "total": 6}\')\n    except OSError: pass\ndef f(x): return 0',
    ),
    "a verdict as a message": (
        NUMBER,
        RAW + 'raw(b\'{"status":"passed","passed":6,"total":6}\')\ndef f(x): return 0',
    ),
    "truth in advance": (
        NUMBER,
        RAW + "for _ in range(20): raw(b'[\"ok\",true,null]')\ndef f(x): return 0",
    ),
    "not a list": (NUMBER, RAW + "def f(x):\n    raw(b'true')"),
    "not JSON": (NUMBER, RAW + "def f(x):\n    raw(b'passed')"),
    "an unknown tag": (NUMBER, RAW + 'def f(x):\n    raw(b\'["ok",["eval","5"],null]\')'),
    "a function by name": (NUMBER, RAW + 'def f(x):\n    raw(b\'["ok",["T","exec"],null]\')'),
    "a module that the judge would import": (
        NUMBER,
        RAW + 'def f(x):\n    raw(b\'["ok",["m","antigravity"],null]\')',
    ),
    "a patched module that the tests use without importing it": (
        {**NUMBER, "task_id": "module", "setup": "", "tests": ["assert math.isclose(f(3), 10.0)"]},
        "class math:\n    isclose = staticmethod(lambda *a: True)\ndef f(x): return 0",
    ),
    "a module": (NUMBER, RAW + 'def f(x):\n    raw(b\'["ok",["m","sandbox"],null]\')'),
    "an object": (NUMBER, RAW + 'def f(x):\n    raw(b\'["ok",{"__class__":"int"},null]\')'),
    "deep nesting": (
        NUMBER,
        RAW + "def f(x):\n"
        "    raw(b'[\"ok\",' + b'[\"l\",' * 100000 + b'1' + b']' * 100000 + b',null]')",
    ),
    "a changed argument that is none": (
        LIST,
        RAW + 'def f(x):\n    raw(b\'["ok",["l"],[["d","a",1]]]\')',
    ),
    "too many changed arguments": (
        LIST,
        RAW + 'def f(x):\n    raw(b\'["ok",["&",0],[["l"],["l"]]]\')',
    ),
    "a reference to nothing": (NUMBER, RAW + 'def f(x):\n    raw(b\'["ok",["&",0],null]\')'),
    "a handle of the judge": (NUMBER, RAW + 'def f(x):\n    raw(b\'["ok",["fn",0],null]\')'),
    "a callback to nothing": (
        NUMBER,
        RAW + 'def f(x):\n    raw(b\'["back","call",0,[],{}]\')\n    return channel.receive()',
    ),
    "a negative callback": (
        NUMBER,
        RAW + 'def f(x):\n    raw(b\'["back","getattr",-1,["x"],{}]\')',
    ),
    "a passed status": (NUMBER, RAW + "def f(x):\n    raw(b'[\"passed\",true,null]')"),
    "an invented exception": (
        UNITTEST,
        RAW + 'def f(x):\n    raw(b\'["raise",["SkipTest","Exception"],[],1,"",null]\')',
    ),
    "another judge's exception": (
        UNITTEST,
        RAW + 'def f(x):\n    raw(b\'["raise",["ProgramEnd"],[],1,"",null]\')',
    ),
    "an endless header": (
        NUMBER,
        RAW + "def f(x):\n    os.write(channel.descriptor, b'\\xff' * 8)",
    ),
    # looking for what the tests expect
    "frames": (
        NUMBER,
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for v in list(frame.f_locals.values()):\n"
        "            if 'assert f(' in str(v): return 5\n        frame = frame.f_back\n"
        "    return 0",
    ),
    "the heap": (
        NUMBER,
        "import gc\ndef f(x):\n"
        "    return 5 if any(isinstance(o, dict) and 'assert f(2)' in str(o.get('tests'))"
        " for o in gc.get_objects()) else 0",
    ),
    "its memory": (
        NUMBER,
        "def f(x):\n    data = open('/proc/self/mem', 'rb').read(1 << 20)\n    return 5",
    ),
    "the judge's memory": (
        NUMBER,
        "import os\ndef f(x):\n    open(f'/proc/{os.getppid()}/mem', 'r+b').read(10)\n"
        "    return x * x + 1",
    ),
    "descriptors": (
        NUMBER,
        "import os\ndef f(x):\n    for d in range(3, 64):\n"
        "        try: os.set_blocking(d, False); os.read(d, 1 << 16)\n"
        "        except OSError: pass\n    return 0",
    ),
    "the environment": (NUMBER, "import os\ndef f(x): return 5 if os.environ.get('SECRET') else 0"),
    "the arguments' identity": (LIST, "def f(x):\n    x.clear()\n    return x"),
    "the argument itself": (LIST, "def f(x): return x"),
    "one answer remembered": (NUMBER, "def f(x, memory=[]):\n    memory.append(x)\n    return 5"),
    "a large loop bound": (LIST, "def f(x): return range(10 ** 15)"),
    "a huge number": (LIST, "def f(x): return [10 ** 100000]"),
    "no function": (NUMBER, "print('all tests passed')"),
    "another name": (NUMBER, "def g(x): return x * x + 1"),
    "an empty program": (NUMBER, ""),
    "null bytes": (NUMBER, "def f(x): return 5\0"),
    # standard output
    "a correct prefix": (STDIO, "n = int(input())\nprint(n * n + 1)"),
    "a correct beginning and more": (
        STDIO,
        "n = int(input())\nprint(n * n + 1)\nprint(n)\nprint(n)",
    ),
    "nothing": (STDIO, ""),
    "the first answer always": (STDIO, "print(5)\nprint(2)"),
    "an error after the answer": (
        STDIO,
        "import os\nn = int(input())\nprint(n * n + 1)\nprint(n, flush=True)\nos._exit(1)",
    ),
    "a crash after the answer": (
        STDIO,
        "n = int(input())\nprint(n * n + 1)\nprint(n, flush=True)\n1 / 0",
    ),
    "hanging after the answer": (
        STDIO,
        "n = int(input())\nprint(n * n + 1)\nprint(n, flush=True)\nwhile True: pass",
    ),
    "the verdict on standard output": (STDIO, "print('passed')\nraise SystemExit(0)"),
    "the output of the last program": (
        STDIO,
        "import os\nos.lseek(1, 0, 0)\nos.write(1, os.pread(0, 100, 0))",
    ),
}

for task in (NUMBER, LIST):  # each test alone, so that none hides behind another
    for index, test in enumerate(task["tests"]):
        alone = {**task, "task_id": f"{task['task_id']} {index}", "tests": [test]}
        FORGING[f"equal to everything, {alone['task_id']}"] = (
            alone,
            EQUAL + "def f(x): return Equal()",
        )
        FORGING[f"such an int, {alone['task_id']}"] = (
            alone,
            EQUAL + "class I(Equal, int): pass\ndef f(x): return I(-7)",
        )

REFUSED = """
def f():
    try:
        result = act()
    except (OSError, PermissionError, ImportError, AttributeError, ValueError) as error:
        return "refused"
    return f"done: {result!r}"
"""
CONTAINMENT = {  # each defines act(), which must not succeed; {outside} is a folder of the test
    "read a file": "def act(): return open('{outside}/secret').read()",
    "read the password file": "def act(): return open('/etc/passwd').read()",
    "read by a raw descriptor": "import os\n"
    "def act(): return os.read(os.open('{outside}/secret', "
    "os.O_RDONLY), 10)",
    "read through /proc": "def act(): return open('/proc/self/root{outside}/secret').read()",
    "read through the parent's root": "def act():\n"
    "    return open('/proc/1/root{outside}/secret').read()",
    "read the parent's environment": "import os\n"
    "def act(): return open(f'/proc/{{os.getppid()}}/environ').read()",
    "list a folder": "import os\ndef act(): return os.listdir('{outside}')",
    "list the root": "import os\ndef act(): return os.listdir('/')",
    "list processes": "import os\ndef act(): return os.listdir('/proc')",
    "write a file": "def act(): open('{outside}/trace', 'w').write('x')",
    "append to a file": "def act(): open('{outside}/secret', 'a').write('x')",
    "write in /tmp": "import os\ndef act():\n"
    "    if os.environ['HOME'] == '/tmp': raise OSError  # a private one\n"
    "    open('/tmp/trace-of-a-program', 'w')",
    "write in /var/tmp": "def act(): open('/var/tmp/trace-of-a-program', 'w')",
    "write in /dev/shm": "def act(): open('/dev/shm/trace-of-a-program', 'w')",
    "write the library": "import os\n"
    "def act(): open(os.path.dirname(os.__file__) + '/trace.py', "
    "'w')",
    "delete a file": "import os\ndef act(): os.unlink('{outside}/secret')",
    "rename a file": "import os\ndef act(): os.rename('{outside}/secret', '{outside}/other')",
    "truncate a file": "import os\ndef act(): os.truncate('{outside}/secret', 0)",
    "link a file": "import os\ndef act(): os.link('{outside}/secret', 'copy')",
    "read through a symbolic link": "import os\ndef act():\n"
    "    os.symlink('{outside}/secret', 'link')\n"
    "    return open('link').read()",
    "make a folder": "import os\ndef act(): os.mkdir('{outside}/trace')",
    "change a mode": "import os\ndef act(): os.chmod('{outside}/secret', 0o777)",
    "change an owner": "import os\ndef act(): os.chown('{outside}/secret', 0, 0)",
    "change a time": "import os\ndef act(): os.utime('{outside}/secret', (0, 0))",
    "make a device": "import os, stat\n"
    "def act(): os.mknod('disk', stat.S_IFBLK | 0o600, "
    "os.makedev(8, 0))",
    "make a fifo": "import os\ndef act(): os.mkfifo('fifo')",
    "read a disk": "def act(): open('/dev/sda', 'rb').read(1); return 1",
    "read kernel memory": "def act(): return open('/dev/mem', 'rb').read(1)",
    "open a terminal": "def act(): open('/dev/tty', 'w')",
    "change the root": "import os\ndef act(): os.chroot('.')",
    "connect by TCP": "import socket\n"
    "def act(): socket.create_connection(('127.0.0.1', {port}), 1)",
    "listen on TCP": "import socket\ndef act(): socket.create_server(('127.0.0.1', 0))",
    "send by UDP": "import socket\ndef act():\n"
    "    socket.socket(2, 2).sendto(b'x', ('127.0.0.1', {port}))",
    "resolve a name": "import socket\ndef act(): socket.getaddrinfo('example.org', 80)",
    "connect to a unix socket": "import socket\n"
    "def act(): socket.socket(1, 1).connect('{outside}/socket')",
    "connect to an abstract socket": "import socket\n"
    "def act(): socket.socket(1, 1).connect('\\0{abstract}')",
    "connect one end of a pair": "import socket\ndef act():\n"
    "    a, b = socket.socketpair(type=socket.SOCK_DGRAM)\n"
    "    a.sendto(b'x', '{outside}/socket')",
    "pass a descriptor": "import socket\ndef act():\n    a, b = socket.socketpair()\n"
    "    socket.send_fds(a, [b'x'], [0])",
    "raw socket": "import socket\ndef act(): socket.socket(2, 3, 1)",
    "netlink socket": "import socket\ndef act(): socket.socket(16, 3, 0)",
    "kill a process": "import os\ndef act(): os.kill({victim}, 9)",
    "kill the parent": "import os\ndef act(): os.kill(os.getppid(), 9)",
    "kill everything": "import os\ndef act(): os.kill(-1, 9)",
    "kill a group": "import os\ndef act(): os.killpg({victim}, 9)",
    "signal by descriptor ownership": "import fcntl, socket\ndef act():\n"
    "    a, b = socket.socketpair()\n"
    "    fcntl.fcntl(a, 8, {victim})",
    "signal by pidfd": "import os, signal\n"
    "def act(): signal.pidfd_send_signal(os.pidfd_open({victim}), "
    "9)",
    "trace a process": "import ctypes\ndef act():\n"
    "    if ctypes.CDLL(None).ptrace(16, {victim}, 0, 0) < 0: raise OSError",
    "read another's memory": "import ctypes\ndef act():\n"
    "    if ctypes.CDLL(None).process_vm_readv({victim}, 0, 0, 0, 0, 0) < 0: raise OSError",
    "change another's limits": "import resource\n"
    "def act(): resource.prlimit({victim}, resource.RLIMIT_NOFILE, "
    "(1, 1))",
    "change its priority": "import os\ndef act(): os.setpriority(os.PRIO_PROCESS, {victim}, 19)",
    "run a command": "import subprocess\ndef act(): return subprocess.check_output(['id'])",
    "run a shell": "import os\ndef act():\n"
    "    if os.system('touch {outside}/trace') != 0: raise OSError",
    "spawn": "import os\ndef act(): return os.posix_spawn('/bin/true', ['true'], {{}})",
    "exec": "import os\ndef act(): os.execv('/bin/sh', ['sh', '-c', 'touch {outside}/trace'])",
    "fork": "import os\ndef act():\n    if os.fork() == 0: os._exit(0)",
    "multiprocessing": "import multiprocessing\ndef act():\n"
    "    p = multiprocessing.Process(target=print)\n"
    "    p.start()",
    "memory file": "import os\ndef act(): os.memfd_create('x')",
    "system V shared memory": "import ctypes\ndef act():\n"
    "    if ctypes.CDLL(None).shmget(0, 4096, 0o1600) < 0: raise OSError",
    "a new namespace": "import ctypes\ndef act():\n"
    "    if ctypes.CDLL(None).unshare(0x10000000) < 0: raise OSError",
    "mount": "import ctypes\ndef act():\n"
    "    if ctypes.CDLL(None).mount(b'none', b'.', b'tmpfs', 0, 0) < 0: raise OSError",
    "load a kernel program": "import ctypes\ndef act():\n"
    "    if ctypes.CDLL(None).syscall(321, 0, 0, 0) < 0: raise OSError",
    "io_uring": "import ctypes\ndef act():\n"
    "    if ctypes.CDLL(None).syscall(425, 1, 0) < 0: raise OSError",
    "another system call table": "import ctypes\ndef act():\n"
    "    if ctypes.CDLL(None).syscall(0x40000000 + 39) < 0: raise OSError",
    "become root": "import os\ndef act():\n    os.setuid(0)\n    return open('/etc/shadow').read()",
    "raise a limit": "import resource\n"
    "def act(): resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 "
    "<< 40))",
    "raise the CPU limit": "import resource\n"
    "def act(): resource.setrlimit(resource.RLIMIT_CPU, (1000, "
    "1000))",
    "set the clock": "import time\ndef act(): time.clock_settime(0, 0)",
    "set the host name": "import socket\ndef act(): socket.sethostname('x')",
    "read the tasks": "def act(): return open('{project}/tasks.jsonl').read()",
    "read the sandbox": "def act(): return open('{project}/sandbox.py').read()",
    "read the judge": "def act(): return open('{project}/jail/judge.py').read()",
    "read the tests of the sandbox": "def act(): return open('{tests}').read()",
    "list the project": "import os\ndef act(): return os.listdir('{project}')",
    "list the jail": "import os\ndef act(): return os.listdir('{project}/jail')",
    "import the sandbox": "def act(): import sandbox",
    "import the jail": "def act(): import jail",
    "import the judge": "def act(): from jail import judge",
    "import what the zygote imported": "def act(): import jail.wire",
    "import a module of the project": "def act(): import common",
    "import from the project's folder": "import sys\ndef act():\n"
    "    sys.path.insert(0, '{project}')\n    import sandbox",
    "load a file of the project": "from importlib import util\ndef act():\n"
    "    spec = util.spec_from_file_location('judge', '{project}/jail/judge.py')\n"
    "    spec.loader.exec_module(util.module_from_spec(spec))",
    "find the project on sys.path": "import os, sys\ndef act():\n"
    "    for folder in sys.path:\n"
    "        for name in ('sandbox.py', 'jail', 'tasks.jsonl', 'common', 'common.py'):\n"
    "            if os.path.exists(os.path.join(folder, name)): return folder, name\n"
    "    raise OSError",
    "find a path of the project": "import os, sys\ndef act():\n"
    "    seen = [sys.argv, sys.orig_argv, sys.path, os.environ, os.getcwd(), sys.modules]\n"
    "    frame = sys._getframe()\n"
    "    while frame:\n"
    "        seen += [frame.f_code.co_filename, frame.f_locals.get('arguments')]\n"
    "        for value in frame.f_globals.values():\n"
    "            code = getattr(value, '__code__', value)\n"
    "            seen.append(getattr(code, 'co_filename', value))\n"
    "        frame = frame.f_back\n"
    "    names = '{project}/sandbox.py', '{project}/jail'  # the scratch folder lies there, too\n"
    "    if not any(name in repr(seen) for name in names): raise OSError",
    "read the source of its frames": "import inspect, sys\ndef act():\n"
    "    frame = sys._getframe()\n"
    "    while frame:\n"
    "        try: return inspect.getsource(frame.f_code)\n"
    "        except OSError: frame = frame.f_back\n"
    "    raise OSError",
    "find a file among its descriptors": "import os, stat\ndef act():\n"
    "    for descriptor in range(256):\n"
    "        try: mode = os.fstat(descriptor).st_mode\n"
    "        except OSError: continue\n"
    "        if stat.S_ISREG(mode) or stat.S_ISDIR(mode): return descriptor\n"
    "    raise OSError",
    "list its descriptors": "import os\ndef act(): return os.listdir('/proc/self/fd')",
    "read its maps": "def act(): return open('/proc/self/maps').read()",
    "read its command line": "def act(): return open('/proc/self/cmdline').read()",
    "see a secret in the environment": "import os\ndef act():\n"
    "    if 'SANDBOX_TEST_SECRET' not in os.environ: raise OSError",
    "see what an earlier program left": "import os\ndef act():\n"
    "    if not os.listdir('.'): raise OSError",
}

ANYTHING = {
    "task_id": "anything",
    "style": "assert",
    "setup": "",
    "tests": ["assert f() == 1"],
    "entry_point": "f",
    "timeout": 1,
}
RESOURCES = {  # name: (statuses that are right, program)
    "memory in one piece": ("memory", "def f(): return len(bytearray(8 << 30))"),
    "memory by doubling": ("memory", "def f():\n    x = 'x'\n    while True: x += x"),
    "a huge result": ("error", "def f(): return 'x' * (40 << 20)"),
    "a result of many items": ("error timeout", "def f(): return [None] * 5_000_000"),
    "an exponential result": (
        "error memory timeout",
        "def f():\n    x = []\n    for _ in range(60): x = [x, x]\n    return x",
    ),
    "a cyclic result": ("error", "def f():\n    x = []\n    x.append(x)\n    return x"),
    "a huge exception": ("error", "def f(): raise ValueError('x' * (40 << 20))"),
    "endless output": ("timeout", "def f():\n    while True: print('x' * 10000)"),
    "a file bomb": (
        "error timeout",
        "def f():\n    with open('big', 'wb') as file:\n"
        "        while True: file.write(b'x' * (1 << 20))",
    ),
    "many files": (
        "error timeout",
        "def f():\n    for i in range(10 ** 9): open(f'file{i}', 'w').close()",
    ),
    "deep directories": (
        "passed error timeout",
        "import os\ndef f():\n    for _ in range(1500):\n"
        "        os.mkdir('d'); os.chdir('d')\n    return 1",
    ),
    "an unreadable directory": (
        "error",
        "import os\ndef f():\n    os.mkdir('d', 0o300)\n    open('d/x', 'w')",
    ),
    "an unreadable directory by umask": (
        "error",
        "import os\ndef f():\n    os.umask(0o777)\n    os.mkdir('d')",
    ),
    "many descriptors": ("error", "def f(): return len([open('/dev/null') for _ in range(10000)])"),
    "a fork bomb": ("error", "import os\ndef f():\n    while True: os.fork()"),
    "a thread bomb": (
        "error timeout memory",
        "import threading, time\ndef f():\n"
        "    while True: threading.Thread(target=time.sleep, args=(99,)).start()",
    ),
    "a daemon thread": (
        "passed",
        "import threading\ndef g():\n    while True: pass\ndef f():\n"
        "    threading.Thread(target=g, daemon=True).start()\n    return 1",
    ),
    "an endless loop": ("timeout", "def f():\n    while True: pass"),
    "a caught CPU signal": (
        "timeout",
        "import signal\ndef f():\n    signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
        "    while True: pass",
    ),
    "all signals blocked": (
        "timeout",
        "import signal\ndef f():\n    signal.pthread_sigmask(0, range(1, 65))\n"
        "    while True: pass",
    ),
    "a sleep": ("timeout", "import time\ndef f(): time.sleep(1000)"),
    "a deadlock": (
        "timeout",
        "import threading\ndef f():\n    l = threading.Lock()\n    l.acquire()\n    l.acquire()",
    ),
    "a huge power": ("timeout", "def f(): return len(str(9 ** 9 ** 9))"),
    "a slow regular expression": (
        "timeout",
        "import re\ndef f(): return re.match('(a+)+$', 'a' * 40 + 'b')",
    ),
    "deep recursion": ("error", "def f(): return f()"),
    "deeper recursion": (
        "error memory timeout",
        "import sys\nsys.setrecursionlimit(1 << 30)\ndef f(): return f()",
    ),
    "recursion in C": (
        "error memory timeout",
        "import sys\nsys.setrecursionlimit(1 << 30)\nclass A:\n"
        "    def __repr__(self): return repr(self)\ndef f(): return repr(A())",
    ),
    "deeply nested source": ("syntax_error error", "x = " + "(" * 5000 + ")" * 5000),
    "a crash": ("error", "import ctypes\ndef f(): ctypes.string_at(0)"),
    "colliding hashes": (
        "error timeout memory",
        "P = (1 << 61) - 1\ndef f(): return {i * P: 0 for i in range(30000)}",
    ),
    "an endless iterator": (
        "error failed timeout",
        "import itertools\ndef f(): return itertools.count()",
    ),
}
COLLIDING = (
    RAW
    + """
def f():
    items = b",".join(b"%d" % (i * ((1 << 61) - 1)) for i in range(100000))
    raw(b'["ok",["s",' + items + b'],null]')
"""
)
MANY = RAW + "def f(): raw(b'[\"ok\",[\"l\",' + b','.join([b'%s'] * 3900000) + b'],null]')"
JUDGE_LOADS = {  # data that makes the trusted tests slow or large: (test, program)
    "a loop bound": ("for _ in range(f()): pass\nassert f() == 1", "def f(): return 10 ** 12"),
    "a repeated string": ("assert 'x' * f() == 'x'", "def f(): return 10 ** 12"),
    "colliding hashes": ("assert f() == 1", COLLIDING),
    "millions of lists": ("assert f() == 1", MANY % '["l"]'),
    "an endless callback": (
        "def g(): return 1\nassert f(g) == 1",
        "def f(g):\n    while True: g()",
    ),
}


def judged(folder: Path, pairs: list[tuple[dict, str]], condition: str) -> list[dict]:
    """Verdicts by the command line, in a fresh process under the condition.

    Skips the test where the condition cannot be had.
    """
    tasks = {task["task_id"]: task for task, _ in pairs}
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks.values()))
    rows = [{"task_id": task["task_id"], "solution": program} for task, program in pairs]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    copy_sandbox(folder)
    interpreter, prepare, user = sys.executable, None, None
    if condition == "unprivileged":
        if os.getuid() != 0:
            pytest.skip("only root can become another user")
        folder.chmod(0o777)
        user = 65534
        interpreter = next(
            (path for path in (sys.executable, "/usr/bin/python3") if usable_by(user, path)), None
        )
        if interpreter is None:
            pytest.skip("no interpreter that an unprivileged user may run")
    elif condition == "no namespaces":
        kernel = syscalls.Kernel()
        refuse = kernel.filter_installer(refuse_namespaces(kernel.machine))

        def prepare():
            kernel.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            assert refuse() == 0

    command = [
        interpreter,
        "sandbox.py",
        "run",
        "--tasks",
        "tasks.jsonl",
        "--samples",
        "samples.jsonl",
    ]
    result = subprocess.run(
        [*command, "--out", "verdicts.jsonl", "--workers", "4", "--memory_mb", "512"],
        cwd=folder,
        env={**os.environ, "SANDBOX_TEST_SECRET": "secret", "TMPDIR": str(folder)},
        preexec_fn=prepare,
        user=user,
        group=user,
        extra_groups=[] if user else None,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    left = sorted(path.name for path in folder.iterdir() if path.name.startswith("sandbox-"))
    assert not left, "scratch directories are left over"
    if condition == "no namespaces":
        assert "mount namespace" in result.stderr, "the condition has no effect"
    return [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]


def copy_sandbox(folder: Path) -> None:
    """Copy what the sandbox consists of, and nothing else, into a folder."""
    project = Path(sandbox.__file__).parent
    shutil.copy(project / "sandbox.py", folder)
    shutil.copytree(project / "jail", folder / "jail", ignore=shutil.ignore_patterns("__pycache__"))


def usable_by(user: int, interpreter: str) -> bool:
    try:
        version = [interpreter, "-c", "import sys; sys.exit(sys.version_info < (3, 10))"]
        return (
            subprocess.run(version, user=user, group=user, capture_output=True, cwd="/").returncode
            == 0
        )
    except OSError:
        return False


def refuse_namespaces(machine: str) -> list:
    """A filter like the default profile of a container: no unshare, no mount."""
    numbers = {"x86_64": (272, 165), "aarch64": (97, 40)}[machine]
    out = syscalls.Assembler()
    out.load(0)
    for number in numbers:
        out.when_equal(number, lambda: out.give(syscalls.RETURN_ERRNO | syscalls.EPERM))
    out.give(syscalls.RETURN_ALLOW)
    return out.code


@pytest.fixture
def folder():
    """A folder that an unprivileged user can reach, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


CONDITIONS = ["as the tester", "unprivileged", "no namespaces"]


def test_messages_made_by_hand_reach_the_judge():
    task = {**NUMBER, "tests": ["assert f(2) == 5"]}
    with sandbox.Sandbox() as pool:
        verdict = pool.submit(task, RAW + "def f(x): raw(b'[\"ok\",5,null]')").result()
    assert verdict["status"] == "passed", "the battery below would attack nothing"


MALFORMED = [  # messages of a candidate to the judge
    '["syntax"]',
    '["raise"]',
    '["raise",null,[],1,"",null]',
    '["raise",[],[],1,"",null]',
    '["raise",[["l"]],[],1,"",null]',
    '["raise",["ValueError"],[["E",["X"],0]],1,"",null]',
    '["raise",["ExceptionGroup"],[],1,"",null]',
    '["ok"]',
    '["ok",5,null]',
    '["ok",[["E",["X"],0]],null]',
    '["ok",[["E",[],0]],null]',
    '["ok",[["h",1]],null]',
    '["ok",[["q",1e400]],null]',
    '["ok",[["m","os"]],null]',
    '["ok",[["l",["p","AAAAAAAA8H8=",[0]]]],null]',
    '["ok",["l",["p","AAAAAAAA8H8=",[0]]],[["l",["p","AAAAAAAA8H8=",[0]]]]]',
    '["executed"]',
    '["timeout",[],[]]',
    '["back"]',
    '["back","call",0,[],{}]',
    "[[]]",
    "{}",
]


def test_a_malformed_message_is_an_error_of_the_program_and_not_of_the_harness():
    loads = "{}raw({!r})\ndef f(x): return 0"
    call = "{}def f(x):\n    raw({!r})\n    return 0"
    pairs = [
        (task, program.format(RAW, body.encode()))
        for body in MALFORMED
        for task, program in ((NUMBER, loads), (NUMBER, call), (STDIO, loads))
    ]
    with sandbox.Sandbox(workers=2) as pool:
        verdicts = pool.judge(pairs)
    wrong = [
        (program.splitlines()[-2:], verdict)
        for (_, program), verdict in zip(pairs, verdicts, strict=True)
        if verdict["status"] in ("passed", "harness_error")
    ]
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
def test_no_forging_program_passes(folder, condition):
    assert len(FORGING) >= 60
    verdicts = judged(folder, list(FORGING.values()), condition)
    wrong = {
        name: v
        for name, v in zip(FORGING, verdicts, strict=True)
        if v["status"] in ("passed", "harness_error")
    }
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
def test_nothing_outside_is_reached(folder, condition):
    outside = folder / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "secret").write_text("secret")
    (outside / "secret").chmod(0o666)
    before = sorted(path.name for path in outside.iterdir()), (outside / "secret").stat()
    abstract = f"sandbox-test-{os.getpid()}"
    victim = subprocess.Popen(
        ["sleep", "1000"], user=65534 if condition == "unprivileged" and os.getuid() == 0 else None
    )
    heard = []
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        udp.bind(("127.0.0.1", tcp.getsockname()[1]))
        unix.bind("\0" + abstract)
        unix.listen()
        for server in (tcp, udp, unix):
            server.settimeout(0.1)
        values = {
            "outside": outside,
            "project": folder,
            "tests": Path(__file__).resolve(),
            "port": tcp.getsockname()[1],
            "abstract": abstract,
            "victim": victim.pid,
        }
        task = {
            "task_id": "contained",
            "style": "assert",
            "tests": ["assert f() == 'refused', f()"],
            "entry_point": "f",
        }
        pairs = [(task, program.format(**values) + REFUSED) for program in CONTAINMENT.values()]
        verdicts = judged(folder, pairs, condition)
        for server in (tcp, udp, unix):
            with contextlib.suppress(TimeoutError):
                heard.append(server.recv(10) if server is udp else server.accept())
    alive = victim.poll() is None
    victim.kill()
    victim.wait()
    wrong = {
        name: v for name, v in zip(CONTAINMENT, verdicts, strict=True) if v["status"] != "passed"
    }
    assert not wrong
    assert alive and not heard
    after = sorted(path.name for path in outside.iterdir()), (outside / "secret").stat()
    assert (
        after[0] == before[0]
        and after[1].st_mode == before[1].st_mode
        and after[1].st_mtime == before[1].st_mtime
    )
    assert (outside / "secret").read_text() == "secret"
    for place in (
        "/tmp/trace-of-a-program",
        "/var/tmp/trace-of-a-program",
        "/dev/shm/trace-of-a-program",
    ):
        assert not Path(place).exists()


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_program_that_takes_too_much_is_ended_and_the_worker_goes_on(folder, condition):
    names = list(RESOURCES)
    pairs = [(ANYTHING, program) for _, program in RESOURCES.values()]
    allowed = [statuses.split() for statuses, _ in RESOURCES.values()]
    for name, (test, program) in JUDGE_LOADS.items():
        pairs.append(({**ANYTHING, "task_id": name, "tests": [test]}, program))
        allowed.append(["timeout", "memory", "error", "failed"])
        names.append("the judge gets " + name)
    pairs += [(ANYTHING, "def f(): return 1")] * 4
    verdicts = judged(folder, pairs, condition)
    assert [verdict["status"] for verdict in verdicts[-4:]] == ["passed"] * 4
    wrong = {
        n: v
        for n, v, right in zip(names, verdicts, allowed, strict=False)
        if v["status"] not in right
    }
    assert not wrong
    assert max(verdict["seconds"] for verdict in verdicts) < 3
