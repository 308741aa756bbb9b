"""Having SLURM start a job again that it has asked to end."""

import os
import signal
import subprocess
import sys

from fvit.launch.ranks import is_first


def requeue(signum: int) -> None:
    """Call ``scontrol requeue`` for this job if its SIGUSR1 was the reason to end.

    That is what ``#SBATCH --signal=USR1@90`` sends before the time is up. SIGTERM is left to SLURM, which requeues what
    it has preempted if it is configured to, and does not where a person has cancelled the job. Once a job: by the first
    rank. Nothing is done in an interactive session, nor where submitit is, which requeues by itself.
    """
    environment = os.environ
    if signum != signal.SIGUSR1 or "SLURM_JOB_ID" not in environment or "SUBMITIT_EXECUTOR" in environment:
        return
    if environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return
    if not is_first():
        return
    job = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=15)
    except FileNotFoundError:
        _warn(job, "there is no scontrol on this machine")
    except subprocess.TimeoutExpired:
        _warn(job, "scontrol did not answer within 15 s")
    except subprocess.CalledProcessError as error:
        _warn(job, (error.stderr or error.stdout).strip() or f"scontrol ended with code {error.returncode}")
    else:
        print(f"SLURM has requeued job {job}", file=sys.stderr)


def _warn(job: str, why: str) -> None:
    print(f"job {job} was not requeued: {why}", file=sys.stderr)
