"""EfficientNet-Lite as a module: a small convolutional network that transformers does not know, made from our config.

Registered with transformers' auto classes under the model type `explorer_efficientnet_lite`, so that a folder with such
a config.json opens, merges and is scored like any other. Parameters are named as in the published PyTorch weights.
Paper: Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019; "Lite" leaves out
squeeze-and-excitation and uses ReLU6.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

MODEL_TYPE = "explorer_efficientnet_lite"
BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""The stages of Lite0: how many blocks, kernel, stride of the first, expansion, output channels."""


class EfficientNetLiteConfig(PreTrainedConfig):
    """How many stages of which blocks; `image_size` in pixels says what the weights were trained on."""

    model_type = MODEL_TYPE

    def __init__(
        self,
        stages: Any = BLOCKS,
        stem_channels: int = 32,
        batch_norm_eps: float = 1e-3,
        image_size: int = 224,
        **others: Any,
    ) -> None:
        self.stages = [list(stage) for stage in stages]
        self.stem_channels, self.batch_norm_eps, self.image_size = stem_channels, batch_norm_eps, image_size
        super().__init__(**others)

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage: the width of an image's vector."""
        return int(self.stages[-1][-1])


class SameConv(nn.Conv2d):
    """A convolution without bias whose output has ceil(input / stride) positions; of an odd padding the larger part is
    right and below, as in TensorFlow, where the weights come from.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, ceil(h / stride), ceil(w / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        high, wide = (max(0, (-(-size // stride) - 1) * stride + kernel - size) for size in input.shape[-2:])
        padded = functional.pad(input, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return super().forward(padded)


class Block(nn.Module):
    """Expand by 1 x 1, convolve each channel alone, project by 1 x 1; the input is added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, eps: float) -> None:
        super().__init__()
        inner = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        if expansion != 1:
            self._expand_conv, self._bn0 = SameConv(inputs, inner, 1), nn.BatchNorm2d(inner, eps)
        self._depthwise_conv, self._bn1 = SameConv(inner, inner, kernel, stride, inner), nn.BatchNorm2d(inner, eps)
        self._project_conv, self._bn2 = SameConv(inner, outputs, 1), nn.BatchNorm2d(outputs, eps)

    def forward(self, input: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h / stride, w / stride]."""
        hidden = input
        if hasattr(self, "_expand_conv"):
            hidden = functional.relu6(self._bn0(self._expand_conv(hidden)))
        hidden = functional.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + input if self.adds else hidden


class EfficientNetLite(PreTrainedModel):
    """Stem and blocks; an image's vector is the mean over positions of what the last block gives."""

    config_class = EfficientNetLiteConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        eps, inputs = config.batch_norm_eps, config.stem_channels
        self._conv_stem, self._bn0 = SameConv(3, inputs, 3, 2), nn.BatchNorm2d(inputs, eps)
        blocks: list[Block] = []
        for count, kernel, stride, expansion, outputs in config.stages:
            for place in range(count):
                blocks.append(Block(inputs, outputs, kernel, stride if place == 0 else 1, expansion, eps))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing beyond what the layers do themselves: weights are always given."""

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """[n, 3, h, w] -> last_hidden_state [n, channels, h / 16, w / 16], pooler_output [n, channels]."""
        hidden = functional.relu6(self._bn0(self._conv_stem(pixel_values)))
        for block in self._blocks:
            hidden = block(hidden)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=torch.mean(hidden, dim=(2, 3)))


def register() -> None:
    """Make the class known to transformers' auto classes; again is harmless. Call it under the lock TRANSFORMERS."""
    AutoConfig.register(MODEL_TYPE, EfficientNetLiteConfig, exist_ok=True)
    AutoModel.register(EfficientNetLiteConfig, EfficientNetLite, exist_ok=True)
