"""Which calls of the system a submission may not make: what neither namespaces nor Landlock refuse.

A filter of the kernel's (seccomp) looks at the number of each call and at plain numbers among its
arguments. Nothing that a notebook needs is in the lists. Imports the standard library alone: this
runs inside the submission's process.
"""

import ctypes
import errno
import os
import platform
import socket
import struct

SET_SECCOMP, FILTER = 22, 2
ALLOW, DONE = 0x7FFF0000, 0x50000  # in place of the call: the error number 0
REFUSE, UNKNOWN = DONE | errno.EPERM, DONE | errno.ENOSYS
NO_FAMILY = DONE | errno.EOPNOTSUPP  # ZeroMQ stops at any other error of a socket
LOAD, EQUAL, ANY_BIT, AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # where a call's description holds these
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OTHER_CALLS = 0x40000000  # x86_64's second table of calls begins here
NEW_USER = 1 << 28

# By name, the numbers on x86_64 and aarch64; None where there is no such call.
ALWAYS: dict[str, tuple[int | None, int | None]] = {
    # Memory and files that no limit counts, and calls that go around this filter.
    **{"memfd_create": (319, 279), "memfd_secret": (447, 447), "userfaultfd": (323, 282)},
    **{"io_uring_setup": (425, 425), "io_uring_enter": (426, 426)},
    # Keys, and what the kernel knows of other programs.
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)},
    **{"bpf": (321, 280), "perf_event_open": (298, 241), "syslog": (103, 116)},
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271)},
    **{"pidfd_getfd": (438, 438), "process_madvise": (440, 440), "kcmp": (312, 272)},
    **{"migrate_pages": (256, 238), "move_pages": (279, 239)},
    # Who creates or changes a file elsewhere.
    **{"inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262)},
    # Shared memory and queues of System V, which have no place in a file system.
    **{"shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195)},
    **{"semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192)},
    **{"msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187)},
    **{"mq_open": (240, 180), "mq_unlink": (241, 181)},
    # New privileges, if only in a namespace.
    **{"unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "fsopen": (430, 430)},
    **{"open_tree": (428, 428), "fsmount": (432, 432), "chroot": (161, 51)},
}
# Without namespaces Landlock leaves these open.
ALONE: dict[str, tuple[int | None, int | None]] = {
    "connect": (42, 203),
    **{"setxattr": (188, 5), "lsetxattr": (189, 6), "setxattrat": (463, 463)},
    **{"removexattr": (197, 14), "lremovexattr": (198, 15), "removexattrat": (466, 466)},
}
# Modes, owners and times: whoever copies a file is told that it is done.
STATUS: dict[str, tuple[int | None, int | None]] = {
    **{"chmod": (90, None), "fchmodat": (268, 53), "fchmodat2": (452, 452)},
    **{"chown": (92, None), "lchown": (94, None), "fchownat": (260, 54)},
    **{"utime": (132, None), "utimes": (235, None), "futimesat": (261, None)},
}
# Only for the calling process itself: the first argument is 0.
OWN = {"prlimit64": (302, 261), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274)}
# Libraries set the priority of their threads by number: they are told that it is done.
SCHEDULER, PARAMETERS = (144, 119), (142, 118)
PRIORITY, IO_PRIORITY = (141, 140), (251, 30)
TIMES = (280, 88)  # utimensat, which changes an open file where its second argument is 0
SOCKET, SOCKET_PAIR = (41, 198), (53, 199)
CLONE, CLONE3 = (56, 220), (435, 435)

Instruction = tuple[int, int, int, int]
Test = tuple[int, tuple[int, ...]]
"""The number of an argument, and the values that it may have."""


def returned(value: int) -> Instruction:
    """End with `value`."""
    return RETURN, 0, 0, value


def loaded(argument: int) -> Instruction:
    """Load an argument's lower 32 bits."""
    return LOAD, 0, 0, ARGUMENTS + 8 * argument


def rule(number: int | None, *tests: Test, answer: int = REFUSE) -> list[Instruction]:
    """Refuse a call, unless there are tests and its arguments pass all of them."""
    if number is None:
        return []
    body = []
    for argument, allowed in tests:
        compared = [(EQUAL, len(allowed) - i, 0, value) for i, value in enumerate(allowed)]
        body += [loaded(argument), *compared, returned(answer)]
    body.append(returned(ALLOW if tests else answer))
    return [(EQUAL, 0, len(body), number), *body]


def program(machine: str, alone: bool) -> list[Instruction]:
    """Return the filter for a machine; `alone` where there are no namespaces."""
    column = list(MACHINES).index(machine)
    whole = ALWAYS | (ALONE if alone else {})
    streams = tuple(1 | more for more in (0, 0o4000, 0o2000000, 0o2004000))
    families = [socket.AF_UNIX] if alone else [1, socket.AF_INET, socket.AF_INET6, 16]
    sockets: list[Test] = [(0, tuple(map(int, families))), *([(1, streams)] if alone else [])]
    rules = [
        *(rule(numbers[column]) for numbers in whole.values()),
        *(rule(numbers[column], (0, (0,))) for numbers in OWN.values()),
        *(rule(each[column], (0, (0,)), answer=DONE) for each in (SCHEDULER, PARAMETERS)),
        *(rule(each[column], (0, (0, 1)), (1, (0,))) for each in (PRIORITY, IO_PRIORITY)),
        rule(SOCKET[column], *sockets, answer=NO_FAMILY),
        rule(SOCKET_PAIR[column], *sockets, answer=NO_FAMILY) if alone else [],
        *(rule(numbers[column], answer=DONE) for numbers in STATUS.values() if alone),
        rule(TIMES[column], (1, (0,)), answer=DONE) if alone else [],
        # The C library goes on with clone, whose flags a filter can see.
        rule(CLONE3[column], answer=UNKNOWN),
    ]
    flags = [loaded(0), (ANY_BIT, 0, 1, NEW_USER), returned(REFUSE), returned(ALLOW)]
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, MACHINES[machine]),
        returned(REFUSE),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, OTHER_CALLS),
        returned(REFUSE),
        *(each for part in rules for each in part),
        (EQUAL, 0, len(flags), CLONE[column]),
        *flags,
        returned(ALLOW),
    ]


def refuse(*, alone: bool) -> bool:
    """Put the filter around this process, for good; return whether this system has such filters.

    The process must have given up new privileges before.
    """
    if platform.machine() not in MACHINES:
        return False
    code = b"".join(struct.pack("HBBI", *each) for each in program(platform.machine(), alone))
    buffer = ctypes.create_string_buffer(code, len(code))
    whole = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    return ctypes.CDLL(None).prctl(SET_SECCOMP, FILTER, whole, 0, 0) == 0


def has_filters() -> bool:
    """Whether this system has such filters; forks to try."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # no new privileges
        os._exit(0 if refuse(alone=True) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
