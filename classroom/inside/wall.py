"""The wall around a submission: what Linux itself refuses, asked for through ctypes.

A submission's process gets namespaces of its own: a root folder that holds only what it may read
and the one folder that it may write, no network but a loopback of its own, and process numbers of
its own, so that everything it started ends with it. Landlock says the same of files, TCP and
signals once more, and `calls.py` refuses what is left; where a system allows no namespaces, inside
Docker for one, these two remain.

Imports the standard library alone: this runs inside the submission's process.
"""

import ctypes
import fcntl
import os
import platform
import resource
import signal
import socket
import struct

NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NET = 1 << 17, 1 << 27, 1 << 28, 1 << 29, 1 << 30
BIND, RECURSIVE, PRIVATE, NO_SUID, NO_DEVICES, NO_EXEC = 4096, 16384, 1 << 18, 2, 4, 8
DETACH = 2
AT_FDCWD, AT_RECURSIVE, READ_ONLY = -100, 0x8000, 1
SET_PDEATHSIG, SET_NO_NEW_PRIVILEGES, SET_SUBREAPER = 1, 38, 36
MOUNT_SETATTR, CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 442, 444, 445, 446
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
BELOW = 1  # Landlock's rule for a folder and what is below it
EXECUTE, WRITE_FILE, READ_FILE, READ_FOLDER, TRUNCATE = 1, 2, 4, 8, 1 << 14
ALL_FILES = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # by Landlock's version, how many rights it knows
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix", "/sys/devices/system")
SETTINGS = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "fonts",
    "ssl",
    "alternatives",
)
NAMES = ("passwd", "group", "nsswitch.conf", "hosts", "mime.types", "os-release")
DEVICES = ("null", "zero", "full", "random", "urandom")
SHARED_MEMORY = 512_000_000  # bytes of /dev/shm
OPEN_FILES = 1024

libc = ctypes.CDLL(None, use_errno=True)


def call(result: int, what: str) -> int:
    """Return the `result` of a call of the system; raises OSError where it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def landlock_version() -> int:
    """Return the version of Landlock that this system has, 0 for none."""
    return max(0, libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def has_namespaces(root: str) -> bool:
    """Whether a process may give itself namespaces and a root folder of its own; forks to try.

    `root` is an empty folder.
    """
    pid = os.fork()
    if pid == 0:
        try:
            leave_namespaces()
            inner = os.fork()
            if inner == 0:
                enter_root(root, readable([]), [])
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def leave_namespaces() -> None:
    """Give this process new namespaces; its next child is process 1 of the new ones."""
    user, group = os.getuid(), os.getgid()
    flags = NEW_USER | NEW_MOUNTS | NEW_PIDS | NEW_NET | NEW_IPC
    call(libc.unshare(flags), "unshare")
    for name, text in [("setgroups", "deny"), ("uid_map", user), ("gid_map", group)]:
        line = text if text == "deny" else f"{text} {text} 1"
        with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
            file.write(str(line))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount `source` at `target`."""
    words = [word.encode() or None for word in (source, target, kind)]
    result = libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None)
    call(result, f"mounting {target}")


def set_read_only(path: str, *, below: bool) -> None:
    """Make what is mounted at `path` read-only, and, if asked, all that is mounted `below` it."""
    attributes = struct.pack("QQQQ", READ_ONLY, 0, 0, 0)
    flags, size = AT_RECURSIVE if below else 0, ctypes.c_size_t(len(attributes))
    result = libc.syscall(
        MOUNT_SETATTR, AT_FDCWD, path.encode(), ctypes.c_uint(flags), attributes, size
    )
    call(result, f"making {path} read-only")


def enter_root(root: str, read: list[str], write: list[str]) -> None:
    """Move this process into a root folder that holds `read`, `write`, a few devices and /proc.

    Everything else does not exist for it: no other file, and no socket of another program. `root`
    is an empty folder to build it in, outside of `read` and `write`.
    """
    mount("", "/", "", RECURSIVE | PRIVATE)
    mount("tmpfs", root, "tmpfs", NO_SUID | NO_DEVICES, "size=1m,mode=755")
    for path in read:
        show(path, root + path, writable=False)
    for path in [*write, *(f"/dev/{name}" for name in DEVICES)]:
        show(path, root + path, writable=True)
    os.makedirs(f"{root}/proc")
    mount("proc", f"{root}/proc", "proc", NO_SUID | NO_DEVICES | NO_EXEC)
    os.makedirs(f"{root}/dev/shm")
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", NO_SUID | NO_DEVICES, f"size={SHARED_MEMORY}")
    os.chdir(root)
    call(libc.syscall(PIVOT_ROOT[platform.machine()], b".", b"."), "pivot_root")
    call(libc.umount2(b".", DETACH), "leaving the old root")
    os.chdir("/")
    set_read_only("/", below=False)


def show(path: str, target: str, *, writable: bool) -> None:
    """Let `path` be seen at `target` too; a link stays a link."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(target):  # within a folder that is shown already
        return
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    mount(path, target, "", BIND | RECURSIVE)
    if not writable:
        set_read_only(target, below=True)


def open_loopback() -> None:
    """Switch the network that this process has for itself on: training in several processes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        request = struct.pack("16sH14x", b"lo", 1)  # up
        fcntl.ioctl(unused, 0x8914, request)


def restrict(read: list[str], write: list[str], *, network: bool) -> None:
    """Let Landlock refuse every file but those in `read` and `write`, for good.

    With `network` TCP stays open, to the loopback of a namespace.
    """
    version = landlock_version()
    if not version:
        return
    rights = (1 << ALL_FILES.get(version, 16)) - 1
    reading = rights & (EXECUTE | READ_FILE | READ_FOLDER)
    tcp = 3 if version >= 4 and not network else 0
    scoped = 3 if version >= 6 else 0  # abstract sockets and signals to others
    attributes = struct.pack("QQQ", rights, tcp, scoped)
    attributes = attributes[: 24 if version >= 6 else 16 if version >= 4 else 8]
    size = ctypes.c_size_t(len(attributes))
    rules = call(libc.syscall(CREATE_RULESET, attributes, size, 0), "landlock")
    for path in [*read, *write]:
        allow(rules, path, rights if path in write else reading)
    for name in DEVICES:
        allow(rules, f"/dev/{name}", rights & (READ_FILE | WRITE_FILE))
    allow(rules, "/dev/shm", rights)
    allow(rules, "/proc", reading & ~EXECUTE)
    call(libc.syscall(RESTRICT_SELF, rules, 0), "landlock")
    os.close(rules)


def allow(rules: int, path: str, rights: int) -> None:
    """Add to Landlock's `rules` what may be done at `path` and below."""
    try:
        opened = os.open(path, os.O_PATH)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
    rule = struct.pack("=Qi", rights, opened)
    call(libc.syscall(ADD_RULE, rules, BELOW, rule, 0), f"landlock: {path}")
    os.close(opened)


def drop_privileges() -> None:
    """Give up all capabilities of the namespace, and the ways to get new ones."""
    call(libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    call(libc.capset(header, none), "capset")


def limit(memory: int, file_size: int, processes: int | None) -> None:
    """Set the limits of this process and of all that it starts, in bytes and numbers.

    `processes`, which counts threads too, counts those of the namespace; without one it would count
    all that the teacher runs, and is None.
    """
    wanted = {
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    if processes is not None:
        wanted[resource.RLIMIT_NPROC] = processes
    for name, most in wanted.items():
        _, hard = resource.getrlimit(name)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (most, most))


def readable(folders: list[str]) -> list[str]:
    """Return what a submission may read: the system's programs, and `folders`, where they are."""
    settings = [f"/etc/{name}" for name in (*SETTINGS, *NAMES)]
    found = [*SYSTEM, *settings, *folders, *map(os.path.realpath, folders)]
    return [path for path in dict.fromkeys(found) if os.path.lexists(path)]


def end_with_parent() -> None:
    """Let this process end when the one that started it ends, however that happens."""
    libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Make what a submission leaves behind a child of this process."""
    libc.prctl(SET_SUBREAPER, 1, 0, 0, 0)
