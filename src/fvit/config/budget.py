"""`model.match`: the width at which a model costs in training what it would with softmax attention."""

from typing import Any

NEEDED = ("embed_dim", "num_heads", "depth")


def check_match(model: dict[str, Any]) -> None:
    """Hold `model.match` against what it works on; softmax attention meets its own budget as it stands.

    Raises:
        ValueError: the model keeps the attention it has, or its width is not known.
    """
    match, attention = model["match"], model["attention"].get("name")
    if match is None:
        return
    if attention == "native":
        raise ValueError(
            f"model.match={match} has no effect with attention=native, which keeps what the model has; leave it out, "
            "or take attention=softmax, which sets the budget that others are to meet"
        )
    if missing := [f"model.{key}" for key in NEEDED if not model.get(key)]:
        raise ValueError(
            f"model.match={match} looks for a width, and {model['name']} does not say {', '.join(missing)}; "
            "take model=vit_tiny, for example"
        )
    for origin in ("pretrained", "init_from"):
        if value := model.get(origin):
            raise ValueError(
                f"model.match={match} changes the width, which the weights of model.{origin}={value} do not fit; "
                "leave one of them out"
            )


def meet_budget(model: dict[str, Any], img_size: int, num_classes: int) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The model of the width that `match` asks for, and without that key; and what there is to say of it.

    It is counted, so that every rank and every machine finds the same.

    Args:
        model: checked options.
        img_size: side of the images in pixels.
        num_classes: of the data; the head has as many outputs unless the options say otherwise.
    """
    plain = {key: value for key, value in model.items() if key != "match"}
    if model.get("match") is None:
        return plain, []
    if plain["attention"]["name"] == "softmax":
        told = f"{model['match']} of softmax attention, which is this model: embed_dim={plain['embed_dim']} stays"
        return plain, [("budget", told)]
    from fvit.cost.match import match_count

    reference = {**plain, "attention": {"name": "softmax"}}
    found = match_count(plain, reference, img_size, plain["num_classes"] or num_classes, model["match"])
    told = (
        f"{model['match']} of softmax attention, {found.budget / 1e6:.4g} M: embed_dim={found.model['embed_dim']} in "
        f"place of {model['embed_dim']} has {found.cost / 1e6:.4g} M, {100 * found.error:+.1f} %"
    )
    return found.model, [("budget", told)]
