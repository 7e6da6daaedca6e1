"""Runs a command as deploy/'s files have it run: without rights, with one place to write to, with fewer system calls. Needs Linux and root.

``python tests/confined.py CALL... -- COMMAND...`` allows itself those system calls and no writable code, and becomes the command.
"""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

# Not nobody's business where Python is: below somebody's home it could not be executed. Nothing can be written with this capability.
_AS_NOBODY = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--no-new-privs"]
_READS_ALL = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search", "--bounding-set=-all,+dac_read_search"]
# A namespace of its own, in which all is read-only but one small file system.
_READ_ONLY = 'mount -t tmpfs -o "size=$1,mode=1777" tmpfs "$2"; mount -o remount,bind,ro /; shift 2; exec "$@"'


def command(inner: list[str], temporary: Path, size: str, calls: frozenset[str] = frozenset()) -> list[str]:
    """`inner`, with `temporary` as the only folder that takes files, `size` (such as 8m) of them, and if given only those system calls."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "mount"))):
        pytest.skip("a namespace of its own needs root, and util-linux")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the kernel gives no namespaces here")
    wrapped = [sys.executable, __file__, *sorted(calls), "--"] if calls else []
    return ["unshare", "--mount", "sh", "-euc", _READ_ONLY, "sh", size, str(temporary), *_AS_NOBODY, *_READS_ALL, *wrapped, *inner]


@cache
def calls(name: str) -> frozenset[str]:
    """The system calls that systemd means by a name such as ``@system-service``."""
    if not name.startswith("@"):
        return frozenset([name])
    done = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter", name], capture_output=True, text=True, check=True)
    members = [line.strip() for line in done.stdout.splitlines()[1:]]
    return frozenset().union(*(calls(member) for member in members if member and not member.startswith("#")))


def _allow_only(names: list[str]) -> None:
    """Whatever else is called fails with EPERM, as with SystemCallErrorNumber=EPERM."""
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    refuse, allow = 0x0005_0000 | errno.EPERM, 0x7FFF_0000
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(refuse)))
    for name in names:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # those of other architectures have none
            assert seccomp.seccomp_rule_add(context, ctypes.c_uint32(allow), number, 0) == 0, name
    assert seccomp.seccomp_load(context) == 0


def _deny_writable_code() -> None:
    """MemoryDenyWriteExecute=yes; kernels before 6.3 cannot."""
    set_mdwe, refuse_exec_gain = 65, 1
    ctypes.CDLL(None).prctl(set_mdwe, refuse_exec_gain, 0, 0, 0)


if __name__ == "__main__":
    until = sys.argv.index("--")
    _deny_writable_code()
    _allow_only(sys.argv[1:until])
    os.execvp(sys.argv[until + 1], sys.argv[until + 1 :])
