"""The seal: what a process gives up before it runs programs that nobody trusts.

Runs in the zygote, which seals itself once; forks inherit the seal, so a candidate costs no more.
The caller's process takes the names of the layers and the scratch directory from this file.
Imports syscalls.py and the standard library.

After sealing, a process reads nothing but the interpreter's library (`library_paths`), without the
packages installed beside it, and so whatever lies on sys.path: no folder of the project may be
there.
"""

from __future__ import annotations

import _socket  # socket itself would load select and selectors into every candidate's memory
import contextlib
import os
import resource
import struct
import sys

from jail import syscalls
from jail.syscalls import ENOSYS, EPERM, EROFS, PR_SET_NO_NEW_PRIVS, Kernel

LAYERS = {
    "rlimits": "address space, CPU time, file size, descriptors and core dumps are limited",
    "no_new_privs": "no program can gain privileges by exec",
    "capabilities": "none are held, not even by root",
    "landlock": "files outside the interpreter's library and the scratch directory are out of "
    "reach; so is TCP",
    "seccomp": "system calls outside a list fail: no new process, socket, signal to others, mount, "
    "chmod outside the scratch directory, ...",
    "user namespace": "the candidate is nobody inside its namespaces",
    "network namespace": "no network interface but an unconnected loopback",
    "process namespace": "other processes cannot be named",
    "mount namespace": "a private file tree: the interpreter's library, read-only, and an empty "
    "/tmp of limited size",
    "ipc namespace": "no shared memory or semaphores of others",
}
NAMESPACES = tuple(name for name in LAYERS if name.endswith("namespace"))
FILE_BYTES = 64 << 20  # size limit of one file and of the scratch directory
DEVICES = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 32, 4096, 16384
MS_PRIVATE = 1 << 18
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
CLONE_NEWPID, CLONE_NEWNS = 0x20000000, 0x00020000


def library_paths() -> list[str]:
    """What an interpreter reads: library, shared objects, time zones. Links stay links."""
    library = os.path.dirname(os.__file__)
    paths = [library, sys.base_prefix + "/lib", sys.base_exec_prefix + "/lib", *sys.path]
    paths += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"]
    paths += ["/etc/ld.so.cache", "/etc/localtime"]
    found = {path for path in paths if path.startswith("/") and os.path.exists(path)}
    kept = []
    for path in sorted(found, key=len):
        if not any(path.startswith(parent + "/") for parent in kept):
            kept.append(path)
    return kept


def package_folders(paths: list[str]) -> list[str]:
    """The folders of installed packages in the paths. A program imports these on request alone."""
    found = set()
    for path in filter(os.path.isdir, paths):
        inside = [name for name in os.listdir(path) if name.startswith(("python", "pypy"))]
        for parent in (path, *[os.path.join(path, name) for name in inside]):
            for name in ("site-packages", "dist-packages"):
                folder = os.path.join(parent, name)
                if os.path.isdir(folder):
                    found |= {folder, os.path.realpath(folder)}
    return sorted(found)


def readable_parts(paths: list[str], hidden: list[str]) -> tuple[list[str], list[str]]:
    """The paths without the hidden folders: what can be read as a whole, and what is listed alone.

    Landlock cannot take back what it grants on a parent. So a folder that holds a hidden one is
    listed, which the import of a module needs, and its other children are read.
    """
    whole, listed, todo = [], [], sorted({os.path.realpath(path) for path in paths})
    while todo:
        path = todo.pop()
        if path in hidden:
            continue
        if not any(folder.startswith(path + "/") for folder in hidden):
            whole.append(path)
            continue
        listed.append(path)
        children = [os.path.join(path, name) for name in os.listdir(path)]
        todo += [child for child in children if not os.path.islink(child)]
    return whole, listed


def build_root(
    kernel: Kernel, root: str, paths: list[str], packages: dict[str, str], hidden: list[str]
) -> None:
    """Make `root` the root of a tree of the paths, read-only, the devices and a limited /tmp.

    packages: paths of what lies in the folder /packages, by name.
    hidden: folders in the paths that are empty in the tree.
    """
    kernel.mount("none", "/", None, MS_REC | MS_PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    os.makedirs(root + "/packages")
    places = [(path, path) for path in paths + DEVICES]
    places += [(path, f"/packages/{name}") for name, path in packages.items()]
    for path, place in places:
        target = root + place
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
            continue
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            open(target, "w").close()
        kernel.mount(path, target, None, MS_BIND | MS_REC)
        # A device can be written all the same. nosuid, nodev, noexec cannot be dropped.
        locked = os.statvfs(target).f_flag & 0xF
        kernel.mount("none", target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | locked)
    for folder in hidden:
        if os.path.isdir(root + folder) and not os.path.islink(root + folder):
            flags = MS_RDONLY | MS_NOSUID | MS_NODEV
            kernel.mount("tmpfs", root + folder, "tmpfs", flags, "mode=555,size=4k")
    os.makedirs(root + "/tmp")
    size = f"mode=777,size={FILE_BYTES},nr_inodes=4096"
    kernel.mount("tmpfs", root + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, size)
    with open(root + "/canary", "w") as file:
        file.write("not for reading")
    kernel.enter_root(root)
    kernel.mount("none", "/", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def forbidden(action, *expected) -> str | None:
    """None if the action fails with OSError, of an expected number if any is given; else a text."""
    try:
        action()
    except OSError as error:
        if expected and error.errno not in expected:
            return f"failed with {error} instead of being refused"
        return None
    return "was not refused"


class Seal:
    """Takes from the zygote all that a candidate does not need; proves each layer by its effect."""

    def __init__(self, scratch: str, memory: int, packages: dict[str, str]):
        self.scratch = scratch  # the directory that a program may write
        self.packages = os.path.join(os.path.dirname(scratch), "packages")  # for sys.path
        self.paths = packages  # of the packages that a program may import, by name
        self.hidden = []  # folders of the interpreter's library that hold installed packages
        self.memory = memory  # bytes of address space
        # layer -> "" if its effect is proved, else the reason of its absence
        self.report = {name: "not tried" for name in LAYERS}
        self.kernel = Kernel() if sys.platform == "linux" else None
        self.install_filter = None  # installs what candidates add to the filter of system calls
        self.namespaces = False  # whether this process left those of its parent

    def unshare(self) -> None:
        """Leave the parent's namespaces; that of processes holds from the next fork on."""
        self.namespaces = True
        uid, gid = os.getuid(), os.getgid()
        ids = [os.stat("/proc/self/ns/" + name).st_ino for name in ("net", "ipc")]
        user = {"setgroups": "deny", "uid_map": f"65534 {uid} 1", "gid_map": f"65534 {gid} 1"}
        try:
            self.kernel.unshare(CLONE_NEWUSER)
            for file, text in user.items():
                with open(f"/proc/self/{file}", "w") as stream:
                    stream.write(text)
            changed = os.getuid() == 65534
            self.report["user namespace"] = "" if changed else "the user did not change"
        except OSError as error:
            self.report["user namespace"] = str(error)
        flags = {"network": CLONE_NEWNET, "ipc": CLONE_NEWIPC, "process": CLONE_NEWPID}
        for name, flag in flags.items():
            self.attempt(f"{name} namespace", lambda flag=flag: self.kernel.unshare(flag))
        for name, file, before in zip(("network", "ipc"), ("net", "ipc"), ids, strict=True):
            same = os.stat("/proc/self/ns/" + file).st_ino == before
            if same and not self.report[name + " namespace"]:
                self.report[name + " namespace"] = "the namespace did not change"
        if not self.report["network namespace"]:
            interfaces = [name for _, name in _socket.if_nameindex()]
            if set(interfaces) - {"lo"}:
                self.report["network namespace"] = "an interface is there"

    def apply(self) -> None:
        """Seal this process. The order matters: a step may forbid what an earlier one does."""
        if self.kernel is None:
            self.limit()
            os.chdir(self.scratch)
            return
        paths = library_paths()
        self.hidden = package_folders(paths)
        outside = os.path.join(os.path.dirname(self.scratch), "canary")
        if not self.report["process namespace"] and os.getpid() != 1:
            self.report["process namespace"] = "the first process is not number 1"
        if self.namespaces:
            try:
                self.kernel.unshare(CLONE_NEWNS)  # only here: the parent needs the old tree
                build_root(self.kernel, self.scratch, paths, self.paths, self.hidden)
                self.scratch, self.packages = "/tmp", "/packages"
                null = os.open(DEVICES[0], os.O_RDWR)
                for descriptor in range(3):  # those of the parent lie on a mount that is not ours
                    os.dup2(null, descriptor)
                os.close(null)
                seen = os.path.exists(outside)
                self.report["mount namespace"] = "a file outside can be seen" if seen else ""
                outside = "/canary"
            except OSError as error:
                self.report["mount namespace"] = str(error)
        os.chdir(self.scratch)
        self.limit()
        self.attempt("capabilities", self.kernel.drop_capabilities)
        self.attempt("no_new_privs", lambda: self.kernel.prctl(PR_SET_NO_NEW_PRIVS, 1))
        devices = [path for path in DEVICES if os.path.exists(path)]
        readable, listed = readable_parts(paths, self.hidden)
        readable.append(self.packages)
        if self.packages != "/packages":  # links lead to where the packages are
            readable += self.paths.values()
        granted = readable, listed, [self.scratch], devices
        self.attempt("landlock", lambda: self.kernel.landlock(*granted))
        if not self.report["landlock"]:
            found = forbidden(lambda: open(outside).close(), 13)
            found = found or forbidden(lambda: os.listdir("/"), 13)
            self.report["landlock"] = f"reading a file outside {found}" if found else ""
        self.attempt("seccomp", self.filter_calls)

    def attempt(self, layer: str, action) -> None:
        """Do the action and report the layer: proved if nothing is raised."""
        try:
            action()
            self.report[layer] = ""
        except (OSError, KeyError, AttributeError) as error:
            self.report[layer] = f"{type(error).__name__}: {error}"

    def limit(self) -> None:
        """Set the limits of resources; each candidate limits its CPU time by itself."""
        self.report["rlimits"] = ""
        limits = (
            ("AS", self.memory),
            ("FSIZE", FILE_BYTES),
            ("NOFILE", 128),
            ("CORE", 0),
            ("MEMLOCK", 0),
            ("MSGQUEUE", 0),
        )
        for name, value in limits:
            try:
                resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
            except (OSError, ValueError, AttributeError) as error:
                if name in ("AS", "FSIZE", "NOFILE"):
                    self.report["rlimits"] = f"{name}: {error}"

    def filter_calls(self) -> None:
        """Install the filter of system calls; prepare what each candidate adds."""
        if self.machine_unknown():
            raise OSError(ENOSYS, f"no table of system calls for {os.uname().machine}")
        private = not self.report["mount namespace"]
        base = syscalls.base_filter(self.kernel.machine, attributes=private)
        extra = syscalls.candidate_filter(self.kernel.machine)
        installer = self.kernel.filter_installer(extra)
        self.kernel.install_filter(base)
        self.install_filter = installer

    def machine_unknown(self) -> bool:
        """Whether the filters are not made for this machine."""
        known = self.kernel.machine in syscalls.CALLS
        return not known or sys.byteorder != "little" or struct.calcsize("P") != 8

    def after_fork(self) -> None:
        """What a candidate loses on top of the zygote's seal."""
        if self.install_filter is None:
            os.setsid()  # so that its processes can be ended as a group
        elif self.install_filter() < 0:
            raise OSError(EPERM, "the filter of system calls is refused")

    def prove(self) -> dict:
        """Try each forbidden act in a sealed candidate; return the report."""
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if not self.report["rlimits"] and (hard != self.memory or not self.raise_limit_fails()):
            self.report["rlimits"] = "a limit can be raised"
        if self.kernel is None:
            return self.report
        found = self.readable_package()
        for layer in ("mount namespace", "landlock") if found else ():
            self.report[layer] = self.report[layer] or f"{found} can be read"
        acts = {
            "fork": lambda: os.fork() or os._exit(0),
            "socket": lambda: _socket.socket().close(),
            "kill": lambda: os.kill(os.getppid(), 0),
            "chmod": lambda: os.chmod(os.__file__, 0o644),
            "utime": lambda: os.utime(os.__file__),
            "chmod of a device": lambda: os.chmod(DEVICES[0], 0o666),
            "chmod of an open device": lambda: os.fchmod(0, 0o666),
            "chmod of the root": lambda: os.chmod("/", 0o755),
            "exec": lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),
            "unshare": lambda: self.kernel.unshare(CLONE_NEWUSER),
            "ptrace": lambda: self.kernel.check(self.kernel.libc.ptrace(0, 0, 0, 0), "ptrace"),
        }
        if not self.report["seccomp"]:
            for name, act in acts.items():
                found = forbidden(act, EPERM, EROFS)
                if found:
                    self.report["seccomp"] = f"{name} {found}"
        with open(os.path.join(self.scratch, "proof"), "w") as file:
            file.write("a program may write here")
        return self.report

    def readable_package(self) -> str | None:
        """A file of an installed package that nobody asked for and that can be read, if any."""
        for folder in filter(os.path.isdir, self.hidden):
            for name in set(os.listdir(folder)) - set(self.paths):
                for file in (os.path.join(folder, name), os.path.join(folder, name, "__init__.py")):
                    if os.path.isfile(file) and forbidden(lambda file=file: open(file).close()):
                        return file
        return None

    def raise_limit_fails(self) -> bool:
        """Whether the limit of the address space stays where it is."""
        try:
            resource.setrlimit(resource.RLIMIT_AS, (self.memory, self.memory + 4096))
        except (OSError, ValueError):
            return True
        return False


def make_scratch(packages: dict[str, str]) -> str:
    """A new scratch directory; beside it a file that no program may read, and links to packages."""
    import tempfile

    base = tempfile.mkdtemp(prefix="sandbox-")
    with open(os.path.join(base, "canary"), "w") as file:
        file.write("not for reading")
    scratch = os.path.join(base, "scratch")
    os.mkdir(scratch)
    os.mkdir(os.path.join(base, "packages"))
    for name, path in packages.items():
        os.symlink(path, os.path.join(base, "packages", name))
    return scratch


def remove_scratch(scratch: str) -> None:
    """Remove what make_scratch made; no error if another process was faster."""
    base = os.path.dirname(scratch)
    packages = os.path.join(base, "packages")
    with contextlib.suppress(OSError):
        for name in os.listdir(packages):
            os.unlink(os.path.join(packages, name))
    for path in (scratch, packages):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(base, "canary"))
    with contextlib.suppress(OSError):
        os.rmdir(base)
