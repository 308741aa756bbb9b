"""What a `Classifier` is built from: the defaults of `fvit-train`, and a model as a module or as its description."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fvit.config.legacy import model_options
from fvit.models.hub import resolved

# As in conf/optimizer/adamw.yaml, conf/scheduler/cosine.yaml and conf/loss/cross_entropy.yaml.
OPTIMIZER = {"opt": "adamw", "lr": 2e-3, "weight_decay": 0.05, "layer_decay": None, "betas": [0.9, 0.999]}
SCHEDULER = {"sched": "cosine", "warmup_epochs": None, "warmup_lr": 1e-6, "min_lr": 1e-5}
LOSS = {"name": "cross_entropy", "label_smoothing": 0.1}


def module_and_options(model: Mapping[str, Any] | nn.Module) -> tuple[nn.Module | None, dict[str, Any]]:
    """The module, if `model` is one, and what a checkpoint says of it: the arguments of `fvit.models.build`, or names.

    Raises:
        ValueError: these are names alone, with which nothing can be built.
    """
    if isinstance(model, nn.Module):
        cls = type(model)
        named = {"name": cls.__name__, "module": f"{cls.__module__}:{cls.__qualname__}"}
        return model, {**named, "num_classes": getattr(model, "num_classes", None)}
    if "module" in model:
        raise ValueError(
            f"the checkpoint has the weights of {model['module']}, but not how to build it: "
            f"Classifier.load_from_checkpoint(path, model={model['name']}(…))"
        )
    return None, resolved(model_options(model))  # the options of version 0.1 under their new names


def count_classes(model: Mapping[str, Any], classes: Sequence[str] | None) -> int:
    """The number of `classes` or, without these, that which the model names.

    Raises:
        ValueError: neither is known.
    """
    if count := len(classes) if classes is not None else model.get("num_classes"):
        return count
    raise ValueError(f"num_classes=N must be given: neither classes nor the model {model['name']} tell it")
