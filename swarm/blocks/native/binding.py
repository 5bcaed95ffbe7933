"""The shared library of native kernels, loaded once; without it, the reason.

SWARM_KERNEL in the environment names another kernel than the best one, for tests and comparisons: "portable", "avx2",
"avx512vnni", or "torch" for none. The library reads it, once, when it is first used.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from swarm.errors import UsageError
from swarm.log import get_logger

log = get_logger(__name__)

TORCH = "torch"
"""The name of what runs when no native kernel does."""

KERNELS = ("avx512vnni", "avx2", "portable")
"""Native kernels, best first, as the library names them."""


def library() -> ctypes.CDLL | None:
    """Return the library, or None if torch's own operators must do; `why_not` says why.

    Raises:
        UsageError: SWARM_KERNEL names a kernel that does not exist, or that this machine cannot run.
    """
    return _load()[0]


def why_not() -> str | None:
    """Return why there is no library, in one line; None if there is one."""
    return _load()[1]


def kernel_name() -> str:
    """Return what runs linear layers on this machine's CPU: one of `KERNELS`, or "torch"."""
    found = library()
    return TORCH if found is None else str(found.swarm_kernel().decode())


@cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    found, reason = _open(Path(__file__).parent)
    if found is not None and _asked(found) == TORCH:
        found, reason = None, "SWARM_KERNEL=torch asks for torch's own operators"
    if reason is not None:
        log.info("native kernels: none: %s", reason)
    return found, reason


def _open(folder: Path) -> tuple[ctypes.CDLL | None, str | None]:
    """The library in `folder`, or the reason why there is none."""
    paths = [path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_kernels{suffix}").is_file()]
    if not paths:
        return None, "they were not built; install a C++17 compiler (g++ or clang) and install swarm again"
    try:
        return _declared(ctypes.CDLL(os.fspath(paths[0]))), None
    except (OSError, AttributeError) as error:
        return None, f"{paths[0].name} does not load ({error}); install swarm again"


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes the types; AttributeError if the library is older than this code."""
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for name, result, *arguments in (
        ("swarm_kernel", ctypes.c_char_p),
        ("swarm_kernel_asked", ctypes.c_char_p),
        ("swarm_kernel_runs", number, ctypes.c_char_p),
        ("swarm_packed_bytes", ctypes.c_int64, number, number, number),
        ("swarm_pack", number, number, number, number, pointer, pointer, pointer, pointer),
        ("swarm_quantize", number, pointer, number, pointer, pointer, pointer),
        ("swarm_linear", number, pointer, pointer, pointer, pointer, number, number, number),
        ("swarm_read", ctypes.c_uint64, pointer, ctypes.c_int64, number, number),
        ("swarm_span_workspace", ctypes.c_int64, pointer, ctypes.c_int64, number),
        ("swarm_span_run", number, pointer, pointer, pointer, number),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def _asked(found: ctypes.CDLL) -> str | None:
    """What SWARM_KERNEL names, if anything: checked, as the library itself would go on with another."""
    asked: bytes | None = found.swarm_kernel_asked()
    if asked is None or asked == TORCH.encode():
        return None if asked is None else TORCH
    name = asked.decode(errors="replace")
    if name not in KERNELS:
        raise UsageError(f"SWARM_KERNEL={name} is no kernel: choose {', '.join(KERNELS)} or {TORCH}, or unset it")
    if not found.swarm_kernel_runs(asked):
        raise UsageError(f"SWARM_KERNEL={name}: this CPU cannot run it; unset it for the best that it can")
    return name
