"""Which blocks of a model may be exchanged: one at a time, then greedily, by the validation loss of short runs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from fvit.config.errors import ConfigError, RunError
from fvit.config.overrides import argument
from fvit.config.recorded import overrides_of
from fvit.config.schemas.study import Blocks
from fvit.config.validation import check
from fvit.launch.record import read_metrics
from fvit.search.blocks_report import ACCURACY, LOSS, MACS, Tried, print_round, save


def rank_blocks(sweeper: Sweeper, options: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Run the jobs round by round, then print the ranking and write blocks.csv and blocks.html to the sweep directory.

    Job numbers follow from the results of earlier jobs, so the same command in the same directory continues a sweep.

    Args:
        sweeper: after its `setup`.
        options: of `hydra.sweeper`.
        arguments: the overrides of the command line. Those with several values, such as ``seed=0,1,2``, are the jobs of
            each set of blocks.

    Raises:
        ConfigError: it is not known which blocks there are, or the attention is not exchanged.
        RunError: a job failed, or the directory holds another sweep.
    """
    if "LOCAL_RANK" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError("several processes would each run a sweep: start it in one, without torchrun or srun")
    checked, task = Blocks(**check(OmegaConf.create(dict(options)), Blocks)), sweeper.config
    candidates = checked.blocks if checked.blocks is not None else range(task.model.get("depth") or 0)
    if not candidates:
        raise ConfigError("sweep=blocks does not know how many blocks the model has: set hydra.sweeper.blocks=[0,1,2]")
    lines = [f"{key}={value}" for key, value in checked.params.items()]
    by_key = {}  # those of the command line replace the preset's
    for override in OverridesParser.create(sweeper.hydra_context.config_loader).parse_overrides([*lines, *arguments]):
        by_key[override.get_key_element()] = override
    if "model.blocks" in by_key:
        raise ConfigError("sweep=blocks chooses model.blocks: leave it out, or set hydra.sweeper.blocks=[0,1,2]")
    [grid] = BasicSweeper.split_arguments(list(by_key.values()), max_batch_size=None)
    folder = Path(task.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(task, folder / "multirun.yaml")
    rounds: list[list[Tried]] = []
    try:
        for found in _Search(sweeper, folder, grid).run(list(candidates)):
            rounds.append(found)
            print_round(len(rounds) - 1, found)
    finally:
        if rounds:
            save(rounds, folder)


@dataclass
class _Search:
    sweeper: Sweeper
    folder: Path
    grid: list[list[str]]  # the overrides of each job of a set of blocks
    started: int = 0

    def run(self, left: list[int]) -> Iterator[list[Tried]]:
        """Each round's sets of blocks, best first; the first round is the model without an exchange."""
        yield self._launch([()])
        chosen: tuple[int, ...] = ()
        while left:
            found = sorted(self._launch([(*chosen, block) for block in left]), key=lambda tried: tried.mean(LOSS).mean)
            chosen = found[0].blocks
            left.remove(chosen[-1])
            yield found

    def _launch(self, sets: list[tuple[int, ...]]) -> list[Tried]:
        jobs = [_overrides(fixed, blocks) for blocks in sets for fixed in self.grid]
        numbers = range(self.started, self.started + len(jobs))
        for number, job in zip(numbers, jobs, strict=True):
            before = overrides_of(self.folder / str(number))
            if before is not None and sorted(before) != sorted(job):
                raise RunError(
                    f"job {number} of {self.folder} was started with {' '.join(before)}, and now it would be "
                    f"{' '.join(job)}: give the command that started the sweep, or choose another hydra.sweep.dir"
                )
        self.sweeper.validate_batch_is_legal(jobs)
        self.sweeper.launcher.launch(jobs, initial_job_idx=self.started)
        self.started += len(jobs)
        metrics = [self._metrics(number) for number in numbers]
        per_set = len(self.grid)
        return [Tried(blocks, tuple(metrics[i * per_set : (i + 1) * per_set])) for i, blocks in enumerate(sets)]

    def _metrics(self, number: int) -> Mapping[str, float]:
        record = read_metrics(self.folder / str(number))
        if record is None or record["status"] != "finished":
            reason = record and (record["error"] or record["status"])
            raise RunError(
                f"job {number} of the sweep did not finish ({reason or 'it did not start'}), on which the next ones "
                f"depend: repeat the command with {argument('hydra.sweep.dir', self.folder)}"
            )
        if missing := [name for name in (LOSS, ACCURACY, MACS) if name not in record["metrics"]]:
            raise RunError(f"job {number} of the sweep has no {missing[0]}, by which blocks are compared")
        return record["metrics"]


def _overrides(fixed: list[str], blocks: tuple[int, ...]) -> list[str]:
    """A job's overrides; without blocks the attention is the model's own, and all that fits is kept."""
    if blocks:
        return [*fixed, f"model.blocks=[{','.join(map(str, sorted(blocks)))}]"]
    kept = [line for line in fixed if not line.lstrip("+~").startswith(("attention=", "model.attention", "model.keep"))]
    return [*kept, "attention=native", "model.keep=null"]
