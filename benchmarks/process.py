"""The runner's end of a worker's pipe."""

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.registry import ROOT, Implementation

REFERENCE_TIMEOUT = 900.0
# Exact eigenpairs of a network take longer, once: they are kept.
JUDGE_TIMEOUT = 7200.0


class WorkerError(RuntimeError):
    """A worker refused, failed, died or took too long; the text says which."""


class WorkerProcess:
    """A child process that is asked one thing at a time.

    Args:
        command: What to start.
        threads: For the libraries' thread pools.
        timeout: Seconds that an answer may take.
        more: Variables of its environment.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        threads: int,
        timeout: float = 120.0,
        more: dict[str, str] | None = None,
    ) -> None:
        self._timeout = timeout
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment(threads), **(more or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        self._buffer = b""
        self.hello: dict[str, Any] = {}

    def greet(self) -> None:
        """Wait until the worker has loaded its problem."""
        self.hello = self._read()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            WorkerError: If there is none.
        """
        line = json.dumps({"do": do, **arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        answer = self._read()
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the worker; kill it if it does not end when its pipe does."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + self._timeout
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([descriptor], [], [], max(left, 0.0))
            if not ready:
                self._process.kill()
                raise WorkerError(f"no answer within {self._timeout:.0f} s")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise WorkerError(self._last_words())
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def _last_words(self) -> str:
        code = self._process.wait(timeout=10)
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no message"
        return f"the worker ended with {code}: {last}"


def environment(threads: int) -> dict[str, str]:
    """Return the environment of every child: same paths, same number of threads."""
    # XLA's pool asks for NPROC.
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")
    return {
        **os.environ,
        **dict.fromkeys(pools, str(threads)),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
    }


def start(
    implementation: Implementation,
    problem: str,
    matrix: str,
    *,
    threads: int,
    clock: str,
    timeout: float = 300.0,
) -> WorkerProcess:
    """Start one implementation's worker; an answer of its may take ``timeout`` seconds."""
    return WorkerProcess(
        [
            str(implementation.python),
            "-m",
            implementation.worker,
            implementation.module,
            implementation.factory,
            problem,
            matrix,
            str(threads),
            clock,
        ],
        threads=threads,
        timeout=timeout,
        # What was compiled in an earlier run is not taken from the disk.
        more={"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"},
    )


def exact_products(
    problem: str, matrix: str, columns: Sequence[int], path: Path, *, threads: int
) -> dict[str, Any]:
    """Write the exact products in a process of their own; return what it says."""
    wanted = ",".join(map(str, columns))
    arguments = [problem, matrix, wanted, str(threads), str(path)]
    return _reference("benchmarks.reference", arguments, threads=threads)


def exact_matrices(
    problem: str, matrices: str, path: Path, *, threads: int
) -> dict[str, Any]:
    """Write the exact matrices in a process of their own; return what it says."""
    arguments = [problem, matrices, str(threads), str(path)]
    return _reference("benchmarks.reference_matrices", arguments, threads=threads)


def judge_of(
    kind: str, options: dict[str, Any], *, threads: int
) -> tuple[
    Callable[[str], dict[str, Any]],
    Callable[[str, Sequence[str]], list[dict[str, Any]]],
]:
    """Return what prepares a problem's exact answers, and what judges by them.

    Args:
        kind: A key of `benchmarks.judges.KINDS`.
        options: Of the judge.
        threads: For its process.
    """
    module = "benchmarks.judges"

    def ask(do: str, problem: str, request: dict[str, Any]) -> Any:
        words = json.dumps({"options": options, **request})
        arguments = [do, kind, problem, str(threads), words]
        return _reference(module, arguments, threads=threads, timeout=JUDGE_TIMEOUT)

    def prepare(problem: str) -> dict[str, Any]:
        return ask("prepare", problem, {})

    def judge(problem: str, paths: Sequence[str]) -> list[dict[str, Any]]:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
            listed.write("\n".join(paths))
            listed.flush()
            return ask("judge", problem, {"paths": listed.name})

    return prepare, judge


def _reference(
    module: str,
    arguments: list[str],
    *,
    threads: int,
    timeout: float = REFERENCE_TIMEOUT,
) -> Any:
    try:
        done = subprocess.run(
            [str(ROOT / ".venv/bin/python"), "-m", module, *arguments],
            cwd=ROOT,
            env=environment(threads),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        message = f"the reference did not end within {timeout:.0f} s"
        raise WorkerError(message) from None
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise WorkerError(f"the reference ended with {done.returncode}: {last}")
    return json.loads(done.stdout)
