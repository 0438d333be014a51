"""System calls: which of them a sealed process may make, and those that Python has no name for.

Runs in the zygote and its candidates; the judge uses `Kernel.prctl` alone. Imports the standard
library alone. Linux on x86_64 or aarch64.
"""

from __future__ import annotations

import os
import struct
from functools import partial

# The system calls that an interpreter and honest programs need, as name:number on x86_64:number on
# aarch64 ("-": no such call). The filter compares in this order.
ALLOWED_CALLS = """
read:0:63 write:1:64 close:3:57 stat:4:- fstat:5:80 lstat:6:- poll:7:- lseek:8:62 mmap:9:222
mprotect:10:226 munmap:11:215 brk:12:214 rt_sigaction:13:134 rt_sigprocmask:14:135
rt_sigreturn:15:139 pread64:17:67 pwrite64:18:68 readv:19:65 writev:20:66 access:21:- pipe:22:-
select:23:- sched_yield:24:124 mremap:25:216 msync:26:227 mincore:27:232 madvise:28:233 dup:32:23
dup2:33:- pause:34:- nanosleep:35:101 getitimer:36:102 alarm:37:- setitimer:38:103 getpid:39:172
sendfile:40:71 socketpair:53:199 recvfrom:45:207 recvmsg:47:212 shutdown:48:210 getsockname:51:204
getpeername:52:205 setsockopt:54:208 getsockopt:55:209 fork:57:- vfork:58:- exit:60:93 wait4:61:260
kill:62:129 uname:63:160 flock:73:32 fsync:74:82 fdatasync:75:83 ftruncate:77:46 getdents:78:-
getcwd:79:17 chdir:80:49 fchdir:81:50 rename:82:- rmdir:84:- creat:85:- link:86:- unlink:87:-
symlink:88:- readlink:89:- gettimeofday:96:169 getrlimit:97:163 getrusage:98:165 sysinfo:99:179
times:100:153 getuid:102:174 getgid:104:176 geteuid:107:175 getegid:108:177 setsid:112:157
getppid:110:173 getpgrp:111:- getpgid:121:155 getsid:124:156 getgroups:115:158 getresuid:118:148
getresgid:120:150 rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigsuspend:130:133
sigaltstack:131:132 statfs:137:43 fstatfs:138:44 getpriority:140:141 arch_prctl:158:-
setrlimit:160:164 gettid:186:178 time:201:- futex:202:98 sched_getaffinity:204:123
epoll_create:213:- getdents64:217:61 set_tid_address:218:96 restart_syscall:219:128
fadvise64:221:223 clock_gettime:228:113 clock_getres:229:114 clock_nanosleep:230:115
exit_group:231:94 waitid:247:95 epoll_wait:232:- epoll_ctl:233:21 open:2:- openat:257:56
newfstatat:262:79 unlinkat:263:35 renameat:264:38 linkat:265:37 symlinkat:266:36 readlinkat:267:78
faccessat:269:48 pselect6:270:72 ppoll:271:73 set_robust_list:273:99 get_robust_list:274:100
epoll_pwait:281:22 fallocate:285:47 eventfd2:290:19 epoll_create1:291:20 dup3:292:24 pipe2:293:59
preadv:295:69 pwritev:296:70 getcpu:309:168 renameat2:316:276 getrandom:318:278 membarrier:324:283
copy_file_range:326:285 statx:332:291 rseq:334:293 close_range:436:436 faccessat2:439:439
epoll_pwait2:441:441
"""
# Calls that change or read a file's mode, times and attributes. Landlock does not cover them: only
# where a mount namespace hides every file but the read-only library is a program given them.
ATTRIBUTE_CALLS = """
chmod:90:- fchmod:91:52 fchmodat:268:53 fchmodat2:452:452 utime:132:- utimes:235:- futimesat:261:-
utimensat:280:88 getxattr:191:8 lgetxattr:192:9 fgetxattr:193:10 listxattr:194:11 llistxattr:195:12
flistxattr:196:13
"""
# Calls whose arguments decide, or that the zygote needs and a candidate must not have.
CALLS = {
    "x86_64": {
        **{"audit": 0xC000003E, "column": 1, "clone": 56, "fork": 57, "vfork": 58, "kill": 62},
        **{"ioctl": 16, "fcntl": 72, "prctl": 157, "prlimit64": 302, "sendto": 44, "clone3": 435},
        **{"umask": 95, "mkdir": 83, "mkdirat": 258},
    },
    "aarch64": {
        **{"audit": 0xC00000B7, "column": 2, "clone": 220, "kill": 129},
        **{"ioctl": 29, "fcntl": 25, "prctl": 167, "prlimit64": 261, "sendto": 206, "clone3": 435},
        **{"umask": 166, "mkdirat": 34},
    },
}
RETURN_ALLOW, RETURN_ERRNO, RETURN_KILL = 0x7FFF0000, 0x00050000, 0x80000000
EPERM, EROFS, ENOSYS = 1, 30, 38
CLONE_THREAD, CLONE_NAMESPACES = 0x10000, 0x7E020080
# TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
FCNTLS = (*range(8), 1030, 1031, 1032)  # no F_SETOWN: it would send signals
PRCTLS = (15, 16)  # PR_SET_NAME, PR_GET_NAME
PR_SET_SECCOMP, PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 22, 1, 38
SECCOMP_MODE_FILTER = 2


class Assembler:
    """A classic BPF program as a list of (code, jump if true, jump if false, constant)."""

    def __init__(self):
        self.code = []

    def load(self, offset):
        self.code.append((0x20, 0, 0, offset))

    def load_argument(self, index):
        self.load(16 + 8 * index)  # the low half on a little-endian machine

    def give(self, verdict):
        self.code.append((0x06, 0, 0, verdict))

    def when_equal(self, value, block):
        """Run the block, which ends by giving a verdict, if the loaded word equals the value."""
        self.jump_over(0x15, value, block, False)

    def when_bits(self, mask, block):
        """Run the block if the loaded word has any bit of the mask."""
        self.jump_over(0x45, mask, block, False)

    def unless_bits(self, mask, block):
        """Run the block if the loaded word has no bit of the mask."""
        self.jump_over(0x45, mask, block, True)

    def jump_over(self, code, value, block, negate):
        position = len(self.code)
        self.code.append(None)
        block()
        length = len(self.code) - position - 1
        self.code[position] = (code, length, 0, value) if negate else (code, 0, length, value)

    def allow_values(self, values):
        """Allow if the loaded word is one of the values, else refuse."""
        for value in values:
            self.when_equal(value, lambda: self.give(RETURN_ALLOW))
        self.give(RETURN_ERRNO | EPERM)


def base_filter(machine: str, attributes: bool = False) -> list:
    """The filter of zygote and candidates: calls outside the list fail with EPERM.

    attributes: whether ATTRIBUTE_CALLS are in the list.
    """
    calls = CALLS[machine]
    out = Assembler()
    out.load(4)
    out.code.append((0x15, 1, 0, calls["audit"]))
    out.give(RETURN_KILL)  # a foreign architecture has other numbers
    out.load(0)
    for entry in (ALLOWED_CALLS + (ATTRIBUTE_CALLS if attributes else "")).split():
        number = entry.split(":")[calls["column"]]
        if number != "-":
            out.when_equal(int(number), lambda: out.give(RETURN_ALLOW))
    # The flags of clone3 are out of the filter's sight; the C library falls back to clone.
    out.when_equal(calls["clone3"], lambda: out.give(RETURN_ERRNO | ENOSYS))

    def clone():
        out.load_argument(0)
        out.when_bits(CLONE_NAMESPACES, lambda: out.give(RETURN_ERRNO | EPERM))
        out.give(RETURN_ALLOW)

    def sendto():
        for offset in (48, 52):  # the halves of the address: 0 is the socket's own peer
            out.load(offset)
            out.code.append((0x15, 1, 0, 0))
            out.give(RETURN_ERRNO | EPERM)
        out.give(RETURN_ALLOW)

    def one_of(argument, values):
        def block():
            out.load_argument(argument)
            out.allow_values(values)

        return block

    def make_directory(argument):
        def block():
            out.load_argument(argument)
            # A directory that its owner cannot read could not be emptied.
            for bit in (0o400, 0o200, 0o100):
                out.unless_bits(bit, lambda: out.give(RETURN_ERRNO | EPERM))
            out.give(RETURN_ALLOW)

        return block

    def umask():
        out.load_argument(0)
        out.when_bits(0o700, lambda: out.give(RETURN_ERRNO | EPERM))
        out.give(RETURN_ALLOW)

    for name, argument in (("mkdir", 1), ("mkdirat", 2)):
        if name in calls:
            out.when_equal(calls[name], make_directory(argument))
    out.when_equal(calls["umask"], umask)
    out.when_equal(calls["clone"], clone)
    out.when_equal(calls["sendto"], sendto)
    out.when_equal(calls["ioctl"], one_of(1, IOCTLS))
    out.when_equal(calls["fcntl"], one_of(1, FCNTLS))
    out.when_equal(calls["prctl"], one_of(0, (*PRCTLS, PR_SET_SECCOMP)))
    out.when_equal(calls["prlimit64"], one_of(0, (0,)))
    out.give(RETURN_ERRNO | EPERM)
    return out.code


def candidate_filter(machine: str) -> list:
    """What a candidate loses after the fork: new processes, signals, further filters."""
    calls = CALLS[machine]
    out = Assembler()
    out.load(0)
    for name in ("fork", "vfork", "kill"):
        if name in calls:
            out.when_equal(calls[name], lambda: out.give(RETURN_ERRNO | EPERM))

    def clone():
        out.load_argument(0)
        out.when_bits(CLONE_THREAD, lambda: out.give(RETURN_ALLOW))
        out.give(RETURN_ERRNO | EPERM)

    def prctl():
        out.load_argument(0)
        out.allow_values(PRCTLS)

    out.when_equal(calls["clone"], clone)
    out.when_equal(calls["prctl"], prctl)
    out.give(RETURN_ALLOW)
    return out.code


class Kernel:
    """System calls that the standard library does not offer. Each raises OSError if refused."""

    def __init__(self):
        import ctypes

        self.ctypes = ctypes
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.machine = os.uname().machine
        self.filters = []  # buffers of filters that may still be installed

    def check(self, result: int, what: str) -> int:
        if result < 0:
            number = self.ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")
        return result

    def prctl(self, option: int, a=0, b=0) -> None:
        long = self.ctypes.c_ulong
        self.check(self.libc.prctl(option, long(a), long(b), long(0), long(0)), f"prctl {option}")

    def drop_capabilities(self) -> None:
        """Give up every capability; root without them cannot raise its limits or mount."""
        header = struct.pack("=Ii", 0x20080522, 0)
        self.check(self.libc.capset(header, bytes(24)), "capset")

    def unshare(self, flags: int) -> None:
        self.check(self.libc.unshare(flags), "unshare")

    def mount(
        self, source: str, target: str, kind: str | None, flags: int, data: str | None = None
    ) -> None:
        names = (source, target, kind, data)
        source, name, kind, data = (None if item is None else os.fsencode(item) for item in names)
        flags = self.ctypes.c_ulong(flags)
        self.check(self.libc.mount(source, name, kind, flags, data), f"mount {target}")

    def enter_root(self, root: str) -> None:
        """Make `root` the root directory of this mount namespace and forget the old one."""
        os.chdir(root)
        number = {"x86_64": 155, "aarch64": 41}[self.machine]
        self.check(self.libc.syscall(number, b".", b"."), "pivot_root")
        self.check(self.libc.umount2(b".", 2), "umount2")  # MNT_DETACH
        os.chdir("/")

    def landlock(
        self, readable: list[str], listed: list[str], writable: list[str], devices: list[str]
    ) -> int:
        """Restrict this process to the given paths, no TCP, no signals to processes outside.

        listed: folders whose names can be listed, at any depth, and whose files cannot be read.
        Returns the version of the kernel's interface.
        """
        syscall, ctypes = self.libc.syscall, self.ctypes
        version = self.check(syscall(444, None, ctypes.c_size_t(0), 1), "landlock_create_ruleset")
        files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1  # all rights on files
        size = {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}.get(version, 24)
        attributes = struct.pack("=QQQ", files, 3, 3)[:size]
        ruleset = syscall(444, attributes, ctypes.c_size_t(size), 0)
        self.check(ruleset, "landlock_create_ruleset")
        read, read_list = 1 << 2, 1 << 2 | 1 << 3
        refused = (
            1 << 0 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15
        )  # exec, device, socket, fifo
        device = (1 << 1 | 1 << 2 | 1 << 14) & files  # write, read, truncate
        rights = [(path, read_list if os.path.isdir(path) else read) for path in readable]
        rights += [(path, 1 << 3) for path in listed]
        rights += [(path, files & ~refused) for path in writable]
        rights += [(path, device) for path in devices]
        for path, right in rights:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", right, descriptor)  # packed: 12 bytes
            self.check(syscall(445, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
            os.close(descriptor)
        self.check(syscall(446, ruleset, 0), "landlock_restrict_self")
        os.close(ruleset)
        return version

    def filter_installer(self, code: list):
        """A function that installs a filter; its result is negative if the kernel refuses.

        Every candidate calls one after its fork, and pays for each page that the call touches. So
        the arguments are made before, and the prototype of the C function stays bare.
        """
        ctypes = self.ctypes
        data = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
        buffer = ctypes.create_string_buffer(data, len(data))
        self.filters.append(buffer)
        header = struct.pack("@HP", len(code), ctypes.addressof(buffer))
        program = ctypes.byref(ctypes.create_string_buffer(header))
        return partial(ctypes.PyDLL(None).prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)

    def install_filter(self, code: list) -> None:
        """Install a filter in this process, for good."""
        if self.filter_installer(code)() < 0:
            raise OSError(EPERM, "the filter of system calls is refused")
