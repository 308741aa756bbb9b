"""What timm expects of a backbone around its features."""

from collections.abc import Sequence
from typing import Any

from timm.layers import ClassifierHead
from torch import Tensor, nn


class Backbone(nn.Module):
    """Base of the backbones written here: timm's methods of a classifier.

    A subclass has a `patch_embed`, `stages` of `downsample` and `blocks`, a `norm`, and writes `forward_features`.

    Args:
        num_features: width of the last feature map.
        num_classes: number of logits; 0 for none: the pooled features.
        global_pool: how the map is pooled, in timm's words; "" leaves it a map.
        drop_rate: dropout before the classifier.
        output_fmt: how feature maps lie, NCHW or NHWC.
    """

    def __init__(
        self, num_features: int, num_classes: int, global_pool: str, drop_rate: float, output_fmt: str = "NCHW"
    ) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = num_features
        self.num_classes = num_classes
        self.output_fmt = output_fmt
        self.head = ClassifierHead(num_features, num_classes, global_pool, drop_rate, input_fmt=output_fmt)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] to the last feature map, normalised."""
        raise NotImplementedError(f"{type(self).__name__} writes no forward_features")

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the last feature map to logits [B, classes], or with `pre_logits` to what the classifier sees."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] to logits [B, classes]."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in place; the pooling stays if `global_pool` is None."""
        self.num_classes = num_classes
        # A head without a classifier has nothing to tell where a new one belongs.
        like = next(self.parameters())
        self.head.reset(num_classes, pool_type=global_pool, device=like.device, dtype=like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of blocks for the backward pass, and compute what is in between once more."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layers of parameters, for a rate that decays with depth."""
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^norm", (99999,))]
        return dict(stem=r"^patch_embed", blocks=r"^stages\.(\d+)" if coarse else blocks)


def check_stages(count: int, **per_stage: Sequence[Any]) -> None:
    """Refuse arguments that have not one entry a stage.

    Raises:
        ValueError: one has more or fewer entries than `count`.
    """
    for name, values in per_stage.items():
        if len(values) != count:
            raise ValueError(f"{name}={list(values)} has {len(values)} entries; give {count}, one a stage")
