"""A seccomp filter for sandboxed programs. It refuses kernel interfaces that a short program does not need.

Some hold memory that no limit of the process counts: System V shared memory and message queues, files in memory, pages
given to a pipe, large pipes. Of the rest, namespaces and missing capabilities make most fail anyway; the filter keeps
programs away from kernel code. Of sockets only the families in FAMILIES exist.
The numbers are Linux's (asm/unistd_64.h, asm-generic/unistd.h), the program is classic BPF (linux/filter.h, seccomp.h).
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {  # name: number on x86_64, on aarch64
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "ptrace": (101, 117),
    "acct": (163, 89),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "init_module": (175, 105),
    "quotactl": (179, 60),
    "mq_open": (240, 180),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "splice": (275, 76),
    "tee": (276, 77),
    "vmsplice": (278, 75),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "finit_module": (313, 273),
    "memfd_create": (319, 279),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "mount_setattr": (442, 442),
    "memfd_secret": (447, 447),
}
SOCKETS = {"socket": (41, 198), "socketpair": (53, 199)}
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
# Calls that one of these values of an argument would let hold more memory: name, numbers, place of the argument, values
BUFFERS = {
    "fcntl": ((72, 25), 1, {"F_SETPIPE_SZ": 1031}),
    "setsockopt": ((54, 208), 2, {"SO_SNDBUF": 7, "SO_RCVBUF": 8, "SO_SNDBUFFORCE": 32, "SO_RCVBUFFORCE": 33}),
}

LOAD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16  # in struct seccomp_data; an argument has 8 bytes, low half first
X32 = 0x40000000  # call numbers of the x32 interface of x86_64 start here
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM


def program() -> bytes:
    """The filter for this machine. It allows everything on processors whose call numbers are unknown here.

    A refused call fails with EPERM; a call through another architecture's interface kills the process.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        return struct.pack("=HBBI", RETURN, 0, 0, ALLOW)
    place = list(ARCHITECTURES).index(machine)
    lines = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_IF_EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        *_refused_if(JUMP_IF_AT_LEAST, X32),
        *(line for pair in REFUSED.values() for line in _refused_if(JUMP_IF_EQUAL, pair[place])),
        *(line for pair in SOCKETS.values() for line in _by_argument(pair[place], 0, FAMILIES, ALLOW, REFUSE)),
        *(line for pair, i, values in BUFFERS.values() for line in _by_argument(pair[place], i, values, REFUSE, ALLOW)),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


Line = tuple[int, int, int, int]  # code, lines to jump over if true, if false, value


def _refused_if(comparison: int, value: int) -> list[Line]:
    return [(comparison, 0, 1, value), (RETURN, 0, 0, REFUSE)]


def _by_argument(number: int, argument: int, values: Mapping[str, int], listed: int, other: int) -> list[Line]:
    """For call `number` the filter ends: with `listed` where the argument is one of `values`, else with `other`."""
    ways = [(JUMP_IF_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values.values())]
    ending = [(RETURN, 0, 0, other), (RETURN, 0, 0, listed)]
    return [(JUMP_IF_EQUAL, 0, len(ways) + 3, number), (LOAD, 0, 0, ARGUMENTS_AT + 8 * argument), *ways, *ending]
