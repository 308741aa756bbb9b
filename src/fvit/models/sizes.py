"""Whether a model runs on images of a size, before a run starts on them."""

import torch
from torch import nn
from torch.func import functional_call


def check_size(model: nn.Module, name: str, img_size: int, in_chans: int = 3) -> None:
    """Refuse a size that the model's strides do not divide, unless an image of it passes all the same.

    The image passes on the meta device, where nothing is computed; most convolutional models round up and take it.

    Args:
        model: a timm model; one that does not tell its strides is not checked.
        name: its name, for the message.
        img_size: side of the images in pixels.
        in_chans: their channels.

    Raises:
        ValueError: the model does not run on such images.
    """
    stages = getattr(model, "feature_info", None)
    if not isinstance(stages, list) or not stages or img_size % stages[-1]["reduction"] == 0:
        return
    stride = stages[-1]["reduction"]
    meta = {key: t.to("meta") for key, t in [*model.named_parameters(), *model.named_buffers()]}
    dtype = next(model.parameters()).dtype
    training = [module for module in model.modules() if module.training]
    # In training batch normalisation refuses a map of one position, of which a batch of images has enough.
    model.eval()
    try:
        with torch.no_grad():
            functional_call(model, meta, (torch.empty(1, in_chans, img_size, img_size, device="meta", dtype=dtype),))
    except RuntimeError as error:
        nearest = max(1, round(img_size / stride)) * stride
        raise ValueError(
            f"model {name} does not run on images of {img_size} px; take data.img_size={nearest}, or another multiple "
            f"of its stride of {stride} px"
        ) from error
    finally:
        for module in training:
            module.training = True
