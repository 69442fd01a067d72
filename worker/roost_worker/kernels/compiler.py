"""Compiles the kernels for this machine's processor, and keeps the library for the next process.

The sources use no header of torch, Python or OpenMP, so that a compiler is all they need and takes some seconds.
"""

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from roost_worker.cache import default_cache_dir

LOG = logging.getLogger(__name__)

SOURCES = Path(__file__).with_name("source")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared", "-pthread")
SECONDS = 600
"""Longest that a compiler may take. It needs 5 to 20 s of a core, for which it may have to wait."""


class NoKernelsError(Exception):
    """There are no compiled kernels on this machine; the message says why."""


def compiled(
    folder: Path | None = None, environment: Mapping[str, str] = os.environ, *, architecture: str = "native"
) -> Path:
    """Return the library, compiling it unless that was done before.

    Args:
        folder: where libraries are kept; None is `kernels` in the default cache, since they are the machine's.
        environment: the compiler is its `$CXX`, or the first of `COMPILERS` on its path.
        architecture: processors that it is for, as the compiler names them.
    Raises:
        NoKernelsError: there is no compiler, or it fails.
    """
    compiler = find_compiler(environment)
    if compiler is None:
        raise NoKernelsError(f"no C++ compiler: install one of {', '.join(COMPILERS)}, or name it in $CXX")
    command = (compiler, f"-march={architecture}", *FLAGS)
    folder = folder or default_cache_dir() / "kernels"
    library = folder / f"{_key(command)}.so"
    try:
        if not library.exists():
            with _lock(folder):
                if not library.exists():
                    _compile(command, library)
    except OSError as error:
        raise NoKernelsError(f"{folder} cannot be used: {error}; name another folder in $ROOST_CACHE") from error
    return library


def find_compiler(environment: Mapping[str, str]) -> str | None:
    """Return the path of the C++ compiler, or None."""
    path = environment.get("PATH")
    named = environment.get("CXX")
    return next(filter(None, (shutil.which(name, path=path) for name in ([named] if named else COMPILERS))), None)


def _key(command: Sequence[str]) -> str:
    """Return a hash of all that the library depends on."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    digest.update("\0".join((*command, _version(command[0]), _processor())).encode())
    return digest.hexdigest()[:16]


@cache
def _version(compiler: str) -> str:
    try:
        run = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoKernelsError(f"the compiler {compiler} does not run: {error}") from error
    return run.stdout


def _processor() -> str:
    """Return what `-march=native` depends on: the processor's family and features."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    lines = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    names = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    return "\n".join(line for line in lines if line.split("\t")[0].strip() in names)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process compiles; those that start with it, as the ranks of a group do, wait for its library."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(command: Sequence[str], library: Path) -> None:
    """Compile into a folder beside the library first: a process that is killed leaves no part of it."""
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".compile-") as folder:
        output = Path(folder, library.name)
        units = sorted(map(str, SOURCES.glob("*.cpp")))
        LOG.info("compiling the kernels for this machine's processor")
        try:
            run = subprocess.run([*command, *units, "-o", output], capture_output=True, text=True, timeout=SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise NoKernelsError(f"the compiler {command[0]} did not compile the kernels: {error}") from error
        if run.returncode != 0:
            raise NoKernelsError(f"the compiler {command[0]} did not compile the kernels: {run.stderr.strip()[-2000:]}")
        with output.open("rb") as file:
            os.fsync(file.fileno())  # else a machine that stops may keep the name of a library and not its bytes
        output.rename(library)
