"""A seccomp filter for sandboxed programs. It refuses kernel interfaces that a short program does not need.

Namespaces and missing capabilities make most of these fail anyway; the filter keeps programs away from kernel code.
The numbers are Linux's (asm/unistd_64.h, asm-generic/unistd.h), the program is classic BPF (linux/filter.h, seccomp.h).
"""

from __future__ import annotations

import errno
import platform
import struct

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {  # name: number on x86_64, on aarch64
    "ptrace": (101, 117),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "init_module": (175, 105),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "finit_module": (313, 273),
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
    "mount_setattr": (442, 442),
}

LOAD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER_AT, ARCHITECTURE_AT = 0, 4  # in struct seccomp_data
X32 = 0x40000000  # call numbers of the x32 interface of x86_64 start here
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM


def program() -> bytes:
    """The filter for this machine. It allows everything on processors whose call numbers are unknown here.

    A refused call fails with EPERM; a call through another architecture's interface kills the process.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        return struct.pack("=HBBI", RETURN, 0, 0, ALLOW)
    numbers = [pair[list(ARCHITECTURES).index(machine)] for pair in REFUSED.values()]
    remaining = len(numbers)  # comparisons between the current line and the line that allows
    lines = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_IF_EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        (JUMP_IF_AT_LEAST, remaining + 1, 0, X32),
        *((JUMP_IF_EQUAL, remaining - place, 0, number) for place, number in enumerate(numbers)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
