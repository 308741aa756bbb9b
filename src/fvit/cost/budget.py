"""`model.match`: the width at which a model has the parameters or MACs that it would have with softmax attention."""

from typing import Any

from fvit.cost.match import match_count


def meet_budget(config: dict[str, Any], num_classes: int) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Replace `model.match` by the width that it asks for. The width is counted, so all ranks and machines agree on it.

    Args:
        config: the configuration of a training run.
        num_classes: of the dataset; the head has as many outputs unless the configuration says otherwise.

    Returns:
        the configuration without `model.match`, and what was found, as names and values.

    Raises:
        ValueError: the model keeps its own attention or pretrained weights, or does not have a width to change.
    """
    options = dict(config["model"])
    metric = options.pop("match", None)
    if metric is None:
        return {**config, "model": options}, []
    attention = options["attention"]["name"]
    if attention == "native":
        raise ValueError(
            f"model.match={metric} has no effect with attention=native, which keeps the model's own attention; leave "
            "it out, or use attention=softmax, which sets the budget that others meet"
        )
    if missing := [f"model.{key}" for key in ("embed_dim", "num_heads", "depth") if not options.get(key)]:
        raise ValueError(
            f"model.match={metric} changes the width, and {options['name']} has no {', '.join(missing)}; "
            "use model=vit_tiny, for example"
        )
    for origin in ("pretrained", "init_from"):
        if value := options.get(origin):
            raise ValueError(
                f"model.match={metric} changes the width, and the weights of model.{origin}={value} would not fit; "
                "leave one of them out"
            )
    if attention == "softmax":
        found = f"{metric} of softmax attention, which is this model: embed_dim={options['embed_dim']} stays"
        return {**config, "model": options}, [("budget", found)]
    softmax = {**options, "attention": {"name": "softmax"}}
    outputs = options["num_classes"] or num_classes
    matched = match_count(options, softmax, config["data"]["img_size"], outputs, metric)
    found = (
        f"{metric} of softmax attention, {matched.budget / 1e6:.4g} M: embed_dim={matched.model['embed_dim']} instead "
        f"of {options['embed_dim']} has {matched.cost / 1e6:.4g} M, {100 * matched.error:+.1f} %"
    )
    return {**config, "model": matched.model}, [("budget", found)]
