"""Commands started from a process that has loaded torch, hivemind and transformers already.

Loading them takes two to five seconds of a core, each time, for hundreds of commands. A command that is forked here has
them; what is ours it loads itself. It is a process as any other: of its own group, with its own arguments, variables,
folder and files, and it ends as Python ends, but for the taking apart of those libraries' modules. What is read once
when a library is loaded, such as OMP_NUM_THREADS, is as this process had it: who tests that, or how long a start takes,
or how much memory, starts a process the plain way.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import inspect
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

PRELOADED = (
    "hivemind",
    "transformers.generation.utils",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.tokenization_utils_tokenizers",
    "safetensors.torch",
    "gguf",
    "aiohttp.web",
    "prometheus_client",
    "cryptography.x509",
    "uvloop",
)

PR_SET_NAME = 15
"""Linux's number for: what `ps` shows."""

MOST_BYTES = 1024 * 1024
"""Of a request: a command line and its variables."""


class ForkedPopen(subprocess.Popen):  # type: ignore[type-arg]
    """`subprocess.Popen` of `python -m MODULE`, `python -c CODE` or `python FILE`, forked from the zygote."""

    def _execute_child(self, *args: Any) -> None:
        asked = inspect.signature(subprocess.Popen._execute_child).bind(self, *args).arguments  # type: ignore[attr-defined]
        command = [str(word) for word in asked["args"]]
        assert command[0] == sys.executable and not (asked["shell"] or asked["pass_fds"] or asked["preexec_fn"])
        request = {
            "command": command[1:],
            "folder": os.fspath(asked["cwd"] or os.getcwd()),
            "env": dict(os.environ if asked["env"] is None else asked["env"]),
            "has_own_group": asked["start_new_session"],
        }
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        files = [asked[end] for end in ("p2cread", "c2pwrite", "errwrite")]
        files = [ours if file == -1 else file for ours, file in enumerate(files)]
        with there:
            socket.send_fds(_zygote(), [json.dumps(request).encode()], [*files, there.fileno()])
        self.pid = int(here.recv(64))
        self._child_created, self._end = True, here
        self._close_pipe_fds(  # type: ignore[attr-defined]
            *(asked[end] for end in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"))
        )

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """What `os.waitpid` says of a child of ours."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        if not poll.poll(0 if wait_flags & os.WNOHANG else None):
            return 0, 0
        with self._end:
            return self.pid, int(self._end.recv(64))

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        lock = self._waitpid_lock  # type: ignore[attr-defined]
        if self.returncode is None and lock.acquire(False):
            try:
                if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(ended[1])  # type: ignore[attr-defined]
            finally:
                lock.release()
        return self.returncode  # type: ignore[no-any-return]


def run(
    command: list[str], told: str = "", *, timeout: float, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `told` is its stdin."""
    pipe = subprocess.PIPE
    with ForkedPopen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            output, errors = process.communicate(told, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@cache
def _zygote() -> socket.socket:
    """Start it, once; it ends when its socket is closed."""
    from swarm.server.__main__ import SPIN_COUNT  # not above: what is ours, the zygote has not loaded

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "GOMP_SPINCOUNT": SPIN_COUNT},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


class Job(NamedTuple):
    """What a forked child is to do."""

    command: list[str]
    folder: str
    env: dict[str, str]
    has_own_group: bool
    files: list[int]

    def begin(self) -> None:
        """Become the process that was asked for."""
        if self.has_own_group:
            os.setsid()
        for number, file in enumerate(self.files):
            os.dup2(file, number)
        for file in self.files:
            os.close(file)
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.env)
        random.seed()
        if (numpy := sys.modules.get("numpy")) is not None:
            numpy.random.seed()
        ctypes.CDLL(None).prctl(PR_SET_NAME, self.command[self.command[0] == "-m"].encode()[:15])

    def do(self) -> None:
        """Run the command."""
        match self.command:
            case "-m", name, *words:
                sys.argv, sys.path[0] = [name, *words], self.folder
                runpy.run_module(name, run_name="__main__", alter_sys=True)
            case "-c", code, *words:
                sys.argv, sys.path[0] = ["-c", *words], ""
                exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
            case file, *words:
                sys.argv, sys.path[0] = [file, *words], os.path.dirname(file)
                runpy.run_path(file, run_name="__main__")


def serve(channel: socket.socket) -> Job:
    """Fork as asked; return in the children, and end the process when nobody is left to ask."""
    children: dict[int, socket.socket] = {}
    woken, waker = os.pipe()
    for end in (woken, waker):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([channel, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(children)
        if channel not in ready:
            continue
        message, files, _, _ = socket.recv_fds(channel, MOST_BYTES, 4)
        if not message:
            os._exit(0)
        job = Job(**json.loads(message), files=files[:3])
        if pid := os.fork():
            for file in files[:3]:
                os.close(file)
            children[pid] = socket.socket(fileno=files[3])
            children[pid].send(f"{pid}".encode())
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for file in (woken, waker, files[3]):
            os.close(file)
        for each in (channel, *children.values()):
            each.close()
        return job


def _reap(children: dict[int, socket.socket]) -> None:
    """Tell how those ended that have."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with children.pop(pid) as end, suppress(OSError):
                end.send(f"{status}".encode())


class _Leaving:
    """Ends a child once its threads have ended and what it registered has run; registered first, it is called last.

    Python would take three thousand modules apart then, which are copied by that.
    """

    status: int | None = None

    def __call__(self) -> None:
        if self.status is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.status)


def main() -> None:
    leaving = _Leaving()
    atexit.register(leaving)
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection would touch, and so copy, what all have in common
    job = serve(channel)
    job.begin()
    try:
        job.do()
        leaving.status = 0
    except SystemExit as end:
        leaving.status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except Exception:
        leaving.status = 1
        raise


if __name__ == "__main__":
    main()
