"""Starting one process a device.

Under Hydra, Lightning's own launcher starts rank 1 on the same command line, ``-m`` and all: each rank then composes,
or sweeps, for itself. Here every rank is a child that gets the one resolved configuration of the run's folder, and the
process that composed it only waits. So all ranks hold the same hyperparameters, nothing of a job leaks into the next
one of a sweep, and whoever dies, a rank or the process that waits, takes the others along.
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

from fvit.config.errors import RunError, explain
from fvit.launch import disk, signals
from fvit.launch.devices import local_devices
from fvit.launch.lock import check_free
from fvit.launch.ranks import external_rank, is_first
from fvit.launch.run_dir import last_words, note_failure, read_metrics, write, write_metrics

_MEETING = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")

RESOLVED = "--resolved"
"""Marks a command line that names a file with a resolved configuration."""

_LAUNCHER = "FVIT_LAUNCHER"
"""A child's variable with the process that has started it."""

# Seconds that ranks get to end by themselves, and then after a further SIGTERM: a cluster kills 30 s after its own.
_PATIENCE = 20.0
_GRACE = 8.0


def local_processes(trainer: dict[str, Any], isolated: bool = False) -> int:
    """How many processes to start; 0 to work in this one.

    That is so without a distributed strategy, unless the run shall be `isolated`, and where somebody (torchrun, srun,
    we) has started all ranks already. A distributed strategy gets a process even for a single device, because its
    process group and its environment variables would outlive the job, and the next job of a sweep would take them for
    its own.
    """
    if "LOCAL_RANK" in os.environ or external_rank() is not None:
        return 0
    if trainer["strategy"] == "auto":
        return int(isolated)
    return local_devices(trainer)


def launch(module: str, config: dict[str, Any], folder: Path, processes: int) -> dict[str, float]:
    """Run ``python -m module --resolved FILE`` in `processes` children and return what rank 0 measured.

    Rank 0 writes to the terminal, the others to rank-N.log in the run's folder.

    Raises:
        RunError: a child failed; the others are ended, and the text holds its last lines. Or another process is at work
            in the folder.
        Stopped: a signal told this process, or any of the children, to end.
    """
    nodes = config["trainer"]["num_nodes"]
    if nodes > 1 and (missing := [name for name in _MEETING if name not in os.environ]):
        raise RunError(
            f"trainer.num_nodes={nodes}: each machine runs this command with {', '.join(missing)} set (its number from "
            "0 on; address and a free port of the first one). Or start it with torchrun or srun, which set them"
        )
    node = int(os.environ.get("NODE_RANK", "0"))
    before = read_metrics(folder) or {}
    if node == 0:  # whose rank 0 will say how it ended
        check_free(folder)  # rank 0 would find it too, after the other run's files were written over
        # Until it has imported torch; and an error of the attempt before must not pass for one of this.
        write_metrics(folder, "running", before.get("metrics", {}), before.get("seconds", 0.0))
    resolved = folder / "resolved.json"
    write(resolved, json.dumps(config))
    command = [sys.executable, "-m", module, RESOLVED, str(resolved)]
    shared = {
        **os.environ,
        _LAUNCHER: str(os.getpid()),
        "WORLD_SIZE": str(processes * nodes),
        "NODE_RANK": str(node),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1"),
        # As torchrun does: each process would otherwise start a thread a core.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes))),
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(_free_port())),
    }
    children: list[subprocess.Popen[bytes]] = []
    try:
        with signals.deferring(handles_second=True):
            for rank in range(processes):
                environment = {**shared, "LOCAL_RANK": str(rank)}
                with nullcontext() if rank == 0 else (folder / f"rank-{rank}.log").open("wb") as log:
                    output = {} if log is None else {"stdout": log, "stderr": subprocess.STDOUT}
                    children.append(subprocess.Popen(command, env=environment, **output))
            failed, stopped = _wait(children)
    except KeyboardInterrupt:
        _await(children, 15.0)  # a terminal interrupts the ranks as well
        _note_interrupt(folder)
        raise
    finally:
        _end(children)
    if failed is not None:
        raise RunError(_why(folder, failed, children[failed].returncode))
    if stopped:
        _note_interrupt(folder, "stopped in the middle of something, without a checkpoint")
        text = (read_metrics(folder) or {}).get("error")
        raise signals.Stopped(signals.received() or signal.SIGTERM, text)
    return (read_metrics(folder) or {}).get("metrics", {})


def read_resolved(argv: list[str]) -> dict[str, Any] | None:
    """The configuration that `launch` handed to this process; None if nobody did."""
    if argv[1:2] != [RESOLVED]:
        return None
    return json.loads(Path(argv[2]).read_text(encoding="utf-8"))


def run_as_rank(task: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> None:
    """Be one of several ranks, with a configuration that another process has composed.

    A user's mistake stands in rank 0's metrics.json, which `launch` reads. A rank that `launch` has started ends with
    the process that called it, however that ends: else ranks would train on, and hold the run's folder.
    """
    if _LAUNCHER in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ[_LAUNCHER]),), name="launcher", daemon=True).start()
    try:
        with signals.listening():
            task(config)
            signals.raise_received()
    except signals.Stopped:
        sys.exit(signals.EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        if not (is_first() and note_failure(Path(config["output_dir"]), message)):
            print(message, file=sys.stderr)
        sys.exit(1)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:  # false at once, if it has died before this was asked
        time.sleep(0.5)
    os._exit(1)


def _wait(children: list[subprocess.Popen[bytes]]) -> tuple[int | None, bool]:
    """Wait until all have ended well, or one has failed (its rank), or all were told to end.

    A signal to this process goes on to all children. One to a child alone is its affair, and ends all of them.
    """
    told, deadline = 0, float("inf")
    while True:
        codes = [child.poll() for child in children]
        if any(map(_failed, codes)):
            # The other ranks often fail of the same cause; the lowest of them tells it.
            time.sleep(1)
            return [_failed(child.poll()) for child in children].index(True), False
        if all(code is not None for code in codes):
            return None, any(codes) or told > 0
        if signals.told() > told:
            told = signals.told()
            for child in children:
                child.send_signal(signals.received())
        if told or any(codes):
            deadline = min(deadline, time.monotonic() + _PATIENCE)
        if told > 1 or time.monotonic() > deadline:
            return None, True
        time.sleep(0.1)


def _failed(code: int | None) -> bool:
    """Whether a child ended otherwise than well or as told, be it by itself or where no handler was there yet."""
    return bool(code) and code != signals.EXIT_CODE and -code not in (signal.SIGTERM, *signals.heeded())


def _await(children: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """Let them end by themselves."""
    deadline = time.monotonic() + seconds
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)


def _note_interrupt(folder: Path, text: str | None = None) -> None:
    """Say so, if rank 0 did not manage to."""
    record = read_metrics(folder)
    if record is not None and record["status"] == "running":
        with last_words():
            write_metrics(folder, "interrupted", record["metrics"], record["seconds"], error=text)


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    _await(children, _GRACE)
    for child in children:
        if child.poll() is None:
            child.kill()
            child.wait()


def _why(folder: Path, rank: int, code: int) -> str:
    record = read_metrics(folder) or {}
    if rank == 0 and record.get("error"):
        return str(record["error"])
    killed = code == -signal.SIGKILL
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    how += ", as the system does where memory runs out" if killed else ""
    log = folder / f"rank-{rank}.log"
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:] if log.is_file() else []
    reason = "\n".join([f"rank {rank} {how}", *last])
    status = "killed" if killed else "failed"
    try:
        with disk.explaining(folder):
            write_metrics(folder, status, record.get("metrics", {}), record.get("seconds", 0.0), error=reason)
    except (RunError, OSError) as failure:  # then rank 0 could not note why it failed either, and maybe for this
        return f"{reason}\n{explain(failure)}"
    return reason


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
