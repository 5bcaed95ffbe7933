"""Builds the native kernels (swarm/blocks/native) beside the package; what the package is stands in setup.cfg.

The kernels are one shared library behind a plain C interface, loaded by ctypes: neither Python's nor torch's headers
are needed. They are optional: without a C++ compiler the install goes on and says what is lost.
"""

from __future__ import annotations

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, ExecError, LinkError, PlatformError

SOURCES = sorted(Path("swarm/blocks/native/src").glob("*.cpp"))
HEADERS = sorted(path for path in Path("swarm/blocks/native/src").iterdir() if path.suffix in (".h", ".inc"))

# -ffp-contract=off: a row's bits must not depend on where the compiler happens to fuse. No -ffast-math, same reason.
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fvisibility-inlines-hidden", "-pthread", "-g0"]
FLAGS += ["-Wno-maybe-uninitialized", "-Wno-psabi"]  # what GCC 12 says of its own headers, and of internal functions
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mprefer-vector-width=512"]
IS_X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32

LOST = """
warning: the native kernels were not built: {reason}
warning: swarm works without them, on torch's own operators; int8 and int4 blocks are then several times slower.
warning: install a C++17 compiler (g++ or clang) and install swarm again to have them.
"""


def flags_of(source: Path) -> list[str]:
    """Return the compiler flags of one source: its name says which instruction set it is for."""
    if not IS_X86:
        return FLAGS
    return FLAGS + (AVX512 if source.stem.endswith("avx512") else AVX2 if source.stem.endswith("avx2") else [])


def _warn(text: str) -> None:
    """Print `text`, and to the terminal itself if there is one: pip hides what a build that succeeds has printed."""
    print(text, file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        with suppress(OSError), open("/dev/tty", "w", encoding="utf-8") as terminal:
            terminal.write(text)


class BuildKernels(build_ext):
    """Compiles each source with its own flags; a failure is a warning."""

    def build_extension(self, ext: Extension) -> None:
        """Build the library, or say what is lost without it."""
        try:
            self._build(ext)
        except (CCompilerError, CompileError, ExecError, LinkError, PlatformError, OSError) as error:
            _warn(LOST.format(reason=error))

    def _build(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)

        def compiled(source: Path) -> list[str]:
            return self.compiler.compile(
                [str(source)], output_dir=self.build_temp, extra_postargs=flags_of(source), depends=ext.depends
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(chain.from_iterable(pool.map(compiled, SOURCES)))
        self.compiler.link_shared_object(objects, str(target), extra_postargs=["-pthread"], target_lang="c++")


setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[
        Extension(
            "swarm.blocks.native._kernels",
            sources=[str(path) for path in SOURCES],
            depends=[str(path) for path in HEADERS],
            optional=True,
        )
    ],
)
