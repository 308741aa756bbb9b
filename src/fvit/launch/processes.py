"""Starts one process per device, and ends all of them when one fails or a signal comes.

Lightning's own launcher runs rank 1 on the same command line, which under Hydra composes, or sweeps, a second time.
Here every rank is a child that reads the resolved configuration from a file, and the parent only waits: all ranks have
the same hyperparameters, and nothing of a job remains for the next job of a sweep.

torch's elastic launch was measured in its place. The parent imports torch (520 MiB for 22, and seconds), its SIGINT
handler stays for the next job of a sweep, a second signal starts its timeout again, a rank's stdout and stderr cannot
share a log, and kill -9 on the process group does not reach its ranks.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fvit.config.atomic import write_text
from fvit.config.cores import usable_cores
from fvit.config.errors import RunError, explain
from fvit.launch import disk, signals, staging
from fvit.launch.devices import local_devices
from fvit.launch.lock import check_free
from fvit.launch.ranks import external_rank, is_rank_zero
from fvit.launch.record import TRACEBACK, interruption, printing_write_errors, read_metrics, stamp, write_metrics
from fvit.launch.staging import LAUNCHER

RESOLVED = "--resolved"
"""The command line option for a file with a resolved configuration."""

_ERROR = "error"  # the file, next to the configuration, in which rank 0 says why it did not begin or ended

# Seconds for ranks to save a checkpoint and exit, then to exit after SIGTERM: clusters kill 30 s after their signal.
_PATIENCE = 20.0
_GRACE = 8.0

Ranks = list[subprocess.Popen[bytes]]


def local_processes(trainer: dict[str, Any], isolated: bool = False) -> int:
    """The number of processes to start; 0 to work in this one.

    A distributed strategy gets a process even for a single device, because its process group and environment variables
    would outlive the job. Without one, only an `isolated` job does.
    """
    if "LOCAL_RANK" in os.environ or external_rank() is not None:  # they are started already
        return 0
    if trainer["strategy"] == "auto":
        return int(isolated)
    return local_devices(trainer)


def launch(module: str, config: dict[str, Any], folder: Path, count: int) -> dict[str, float]:
    """Run ``python -m module --resolved FILE`` in `count` processes, and return the metrics that rank 0 recorded.

    Rank 0 writes to the terminal, the others to rank-N.log in the run directory. What they leave there before the run
    begins is staged (`fvit.launch.staging`).

    Raises:
        RunError: a rank failed, with the last lines of its log; or another process uses the run directory.
        Stopped: a signal ended this process or any of the ranks.
        KeyboardInterrupt: Ctrl-C ended this process or any of the ranks.
    """
    check_free(folder)
    before, staged = stamp(folder), folder / staging.name()
    staged.mkdir(parents=True, exist_ok=True)
    write_text(staged / "resolved.json", json.dumps(config))
    command = [sys.executable, "-m", module, RESOLVED, str(staged / "resolved.json")]
    ranks: Ranks = []
    try:
        with signals.deferring():
            environment = _environment(count)
            for rank in range(count):
                with nullcontext() if rank == 0 else (staged / f"rank-{rank}.log").open("wb") as log:
                    output = {} if log is None else {"stdout": log, "stderr": subprocess.STDOUT}
                    ranks.append(subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank)}, **output))
            failed, stopped = _wait(ranks)
    except KeyboardInterrupt:
        _await(ranks, 2.0)  # a terminal interrupts the ranks as well, `kill -INT` does not
        _interrupt(ranks)
        failed, stopped = None, signal.SIGINT
    finally:
        _end(ranks)
    begun = stamp(folder) != before
    if failed is not None:
        raise RunError(_describe_failure(folder, failed, ranks[failed].returncode, begun))
    if stopped:
        by_hand = stopped == signal.SIGINT
        text = interruption(folder, config) if by_hand else "stopped without a checkpoint"
        text = _note_interrupt(folder, text) if begun else None
        raise KeyboardInterrupt(*filter(None, [text])) if by_hand else signals.Stopped(stopped, text)
    return (read_metrics(folder) or {}).get("metrics", {})


def read_resolved(argv: list[str]) -> dict[str, Any] | None:
    """The configuration that `launch` passed to this process; None if it is not a rank."""
    if argv[1:2] != [RESOLVED]:
        return None
    return json.loads(Path(argv[2]).read_text(encoding="utf-8"))


def run_as_rank(work: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> None:
    """Work as one of several ranks, with a configuration that another process composed.

    The message for a user's mistake goes to a file, from where `launch` reads it.
    """
    if LAUNCHER in os.environ:
        threading.Thread(target=_exit_with, args=(int(os.environ[LAUNCHER]),), name="launcher", daemon=True).start()
    try:
        with signals.listening():
            work(config)
            signals.raise_received()
    except signals.Stopped:
        sys.exit(signals.EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        with printing_write_errors():
            if is_rank_zero():
                write_text(Path(config["output_dir"], staging.name(), _ERROR), message)
                sys.exit(1)
        print(message, file=sys.stderr)
        sys.exit(1)


def _exit_with(parent: int) -> None:
    """Exit when the parent dies, even by SIGKILL: ranks would train on, and keep the run directory locked."""
    while os.getppid() == parent:  # false at once if it died before this
        time.sleep(0.5)
    os._exit(1)


def _environment(count: int) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # As torchrun does: each process would otherwise start a thread per core.
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    return {
        **os.environ,
        LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": threads,
        "WORLD_SIZE": str(count),
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _wait(ranks: Ranks) -> tuple[int | None, int]:
    """Wait until all ranks exit, one fails, or the time after a signal is up.

    A signal to this process is forwarded to all ranks. Ranks agree among themselves on one that only some received, but
    not on Ctrl-C, which ends them at once.

    Returns:
        the lowest failed rank, if any, and the signal that ended the run, or 0.
    """
    forwarded, deadline = False, float("inf")
    while True:
        codes = [rank.poll() for rank in ranks]
        if any(map(_failed, codes)):
            time.sleep(1)  # the others often fail of the same cause, which the lowest rank reports
            codes = [rank.poll() for rank in ranks]
        if any(map(_interrupted, codes)):
            _interrupt(ranks)
            return None, signal.SIGINT
        if any(map(_failed, codes)):
            return list(map(_failed, codes)).index(True), 0
        if all(code is not None for code in codes):
            return None, (signals.received() or signal.SIGTERM) if any(codes) or forwarded else 0
        if not forwarded and (signum := signals.received()):
            forwarded = True
            for rank in ranks:
                rank.send_signal(signum)
        if forwarded or any(codes):
            deadline = min(deadline, time.monotonic() + _PATIENCE)
        if time.monotonic() > deadline:
            return None, signals.received() or signal.SIGTERM
        time.sleep(0.1)


def _failed(code: int | None) -> bool:
    """Whether an exit code is neither success nor that of a signal, which may come before a handler is installed."""
    ends = (signals.EXIT_CODE, -signal.SIGTERM, *(-signum for signum in signals.handled()))
    return bool(code) and code not in ends and not _interrupted(code)


def _interrupted(code: int | None) -> bool:
    """Whether an exit code is that of Ctrl-C."""
    return code in (130, -signal.SIGINT)


def _interrupt(ranks: Ranks) -> None:
    for rank in ranks:
        rank.send_signal(signal.SIGINT)  # nothing, if it has exited
    _await(ranks, _GRACE)


def _await(ranks: Ranks, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.1)


def _end(ranks: Ranks) -> None:
    for rank in ranks:
        rank.terminate()  # nothing, if it has exited
    _await(ranks, _GRACE)
    for rank in ranks:
        rank.kill()
        rank.wait()


def _note_interrupt(folder: Path, text: str) -> str | None:
    """Record the interrupt where rank 0 could not, or saw only that the others were gone; returns what is recorded."""
    record = read_metrics(folder)
    if record is None or record["status"] not in ("running", "failed"):
        return record and record["error"]
    (folder / TRACEBACK).unlink(missing_ok=True)
    with printing_write_errors():
        write_metrics(folder, "interrupted", record["metrics"], record["seconds"], error=text)
    return text


def _describe_failure(folder: Path, rank: int, code: int, begun: bool) -> str:
    """The reason, which metrics.json then holds as well if the run has begun."""
    staged = folder / staging.name()
    if rank == 0 and (staged / _ERROR).is_file():
        return (staged / _ERROR).read_text(encoding="utf-8")
    record = (read_metrics(folder) if begun else None) or {}
    if rank == 0 and record.get("error"):
        return str(record["error"])
    killed = code == -signal.SIGKILL
    how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    how += ", as the kernel does when memory runs out" if killed else ""
    logs = [path for path in (staged / f"rank-{rank}.log", folder / f"rank-{rank}.log") if path.is_file()]
    last = logs[0].read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:] if logs else []
    reason = "\n".join([f"rank {rank} {how}", *last])
    if not begun:
        return reason
    status = "killed" if killed else "failed"
    try:
        with disk.explaining(folder):
            write_metrics(folder, status, record.get("metrics", {}), record.get("seconds", 0.0), error=reason)
    except (RunError, OSError) as failure:  # probably what stopped rank 0 from recording its own error
        return f"{reason}\n{explain(failure)}"
    return reason
