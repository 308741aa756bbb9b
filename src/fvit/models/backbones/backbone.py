"""What the backbones share: timm's classifier interface, and stages of blocks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, checkpoint_seq
from torch import Tensor, nn

from fvit.models.backbones.released import KeyMap, renamed, weights_of


class Stage(nn.Module):
    """The blocks of one resolution, after the layer that downsamples to it.

    Args:
        downsample: maps the previous stage's feature map to this resolution.
        blocks: each maps a feature map to one of the same shape.
    """

    def __init__(self, downsample: nn.Module, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class Backbone(nn.Module):
    """Base class with timm's classifier methods and arguments; `output_fmt` is NCHW or NHWC.

    Subclasses have `patch_embed`, `stages` with `downsample` and `blocks`, and `norm`, and implement
    `forward_features`.
    """

    def __init__(
        self, num_features: int, num_classes: int, global_pool: str, drop_rate: float, output_fmt: str = "NCHW"
    ) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = num_features
        self.num_classes = num_classes
        self.output_fmt = output_fmt
        self.head = ClassifierHead(num_features, num_classes, global_pool, drop_rate, input_fmt=output_fmt)

    @staticmethod
    def key_map(names: Iterable[str]) -> KeyMap:
        """How the authors' names of the parameters translate, given all names in their checkpoint."""
        raise NotImplementedError

    def from_released(self, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weights in a checkpoint of the authors, or in one with this class's names, under the names used here."""
        weights = weights_of(checkpoint)
        is_ours = any(name.startswith("stages.") for name in weights)
        return weights if is_ours else renamed(weights, self.key_map(weights))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to the last feature map, normalised."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last feature map to logits [B, classes], or to the classifier's input if `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        # A head without a classifier has no parameters whose device and dtype a new one could take.
        like = next(self.parameters())
        self.head.reset(num_classes, pool_type=global_pool, device=like.device, dtype=like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's groups for layer-wise learning rate decay."""
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^norm", (99999,))]
        return dict(stem=r"^patch_embed", blocks=r"^stages\.(\d+)" if coarse else blocks)


def create(cls: type[Backbone], name: str, pretrained: bool, stages: int, **kwargs: Any) -> Backbone:
    """Build a registered model as timm does; pretrained weights may have the authors' names.

    Raises:
        ValueError: the pretrained weights are those of another model.
    """
    return build_model_with_cfg(
        cls,
        name,
        pretrained,
        feature_cfg=dict(feature_cls="hook", out_indices=tuple(range(stages))),
        pretrained_filter_fn=_released_weights,
        **kwargs,
    )


def _released_weights(checkpoint: Mapping[str, Any], model: Backbone) -> dict[str, Tensor]:
    weights = model.from_released(checkpoint)
    # With another number of classes, timm loads whatever fits and says nothing of the rest.
    differing = sorted(
        name for name in weights.keys() ^ model.state_dict().keys() if not name.startswith(("head.", "head_dist."))
    )
    if differing:
        raise ValueError(
            f"the pretrained weights are not those of this {type(model).__name__}: {len(differing)} names are only in "
            f"one of them, such as {', '.join(differing[:3])}; is the file of another size?"
        )
    return weights


def check_stages(count: int, **per_stage: Sequence[Any]) -> None:
    """Raise ValueError unless each argument has one entry per stage."""
    for name, values in per_stage.items():
        if len(values) != count:
            raise ValueError(f"{name}={list(values)} has {len(values)} entries; give {count}, one per stage")
