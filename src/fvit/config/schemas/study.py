"""Schemas of `hydra.sweeper`: an Optuna study, and a search over blocks."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fvit.config.schemas.fields import Count, Positive, Strict


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class Options(Strict):
    objective: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
    direction: Annotated[list[Literal["maximize", "minimize"]], BeforeValidator(_as_list)]
    params: dict[str, Any]
    n_trials: Positive
    n_startup_trials: Count
    n_jobs: Positive
    seed: Count
    max_failures: Count | None
    storage: str
    study_name: str
    pruner: dict[str, Any]

    @model_validator(mode="after")
    def _objectives(self) -> "Options":
        if len(self.direction) != len(self.objective):
            raise ValueError(
                f"hydra.sweeper.direction={self.direction} must give maximize or minimize for each of "
                f"hydra.sweeper.objective={self.objective}"
            )
        if len(self.objective) > 1 and self.prunes:
            raise ValueError(
                f"runs cannot be pruned with several objectives ({', '.join(self.objective)}): set "
                "hydra/sweeper/pruner=none, or search for one objective"
            )
        return self

    @property
    def prunes(self) -> bool:
        """Whether the pruner may stop a run."""
        return not str(self.pruner.get("_target_")).endswith(".NopPruner")


class Blocks(Strict):
    """Of `hydra/sweeper=fvit_blocks`."""

    blocks: list[Count] | None
    params: dict[str, Any]


class HydraConf(Strict):
    sweeper: Options


class Study(Strict):
    hydra: HydraConf
