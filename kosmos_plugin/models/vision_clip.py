"""CLIP's vision transformers by open_clip: every token after `ln_post`, L2-normalized, without the projection."""

import os
import textwrap
import zipfile

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.vision import VisionEncoder


class ClipVision(VisionEncoder):
    """open_clip's `VisionTransformer`: 257 tokens of 1,024 features for ViT-L/14 at 224×224.

    A layer is a residual block; `ln_post` belongs to the last.
    """

    def __init__(self, visual: nn.Module, mean, std, trainable_layers: int):
        super().__init__()
        for block in visual.transformer.resblocks:
            if type(block) is ResidualAttentionBlock:
                block.__class__ = FusedBlock  # keeps its weights and their names
        visual.proj = None  # the projection to the contrastive space is not used
        self.visual = visual
        self.mean, self.std = tuple(mean), tuple(std)
        self.num_features, self.width = visual.positional_embedding.shape
        self.first_trained = len(visual.transformer.resblocks) - trainable_layers
        self.train_ln_post = trainable_layers > 0

    def frozen(self, images: torch.Tensor) -> torch.Tensor:
        return self._blocks(self.visual._embeds(images), slice(0, self.first_trained))

    def trainable(self, x: torch.Tensor) -> torch.Tensor:
        x = self._blocks(x, slice(self.first_trained, None))
        return F.normalize(self.visual.ln_post(x), dim=-1)

    def _blocks(self, x: torch.Tensor, which: slice) -> torch.Tensor:
        """x [N, L, width] through some of the residual blocks."""
        for block in self.visual.transformer.resblocks[which]:
            x = block(x)
        return x

    def layers(self) -> list[nn.Module]:
        return list(self.visual.transformer.resblocks)

    def trained_modules(self) -> list[nn.Module]:
        ln_post = [self.visual.ln_post] if self.train_ln_post else []
        return [*self.visual.transformer.resblocks[self.first_trained :], *ln_post]


class FusedBlock(ResidualAttentionBlock):
    """open_clip's block, its attention without `nn.MultiheadAttention`.

    That turns [N, L, W] to [L, N, W]; of such a view, without a graph and outside its float32 fast path, torch's linear
    layers copy their weight N times.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, L, W] → [N, L, W]"""
        attention = self.attn
        qkv = F.linear(self.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each [N, H, L, head_dim]
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.ls_1(attention.out_proj(attended))
        return x + self.ls_2(self.mlp(self.ln_2(x)))


def clip(model: str, weights: str | None, image_size: int, trainable_layers: int, load_weights: bool) -> ClipVision:
    """The vision tower of an open_clip model: its name, or a JSON file in open_clip's format.

    `weights` is one of open_clip's tags ("openai" and others), a .pt or .safetensors file of the whole CLIP, or None.
    Tags bring QuickGELU where their weights want it; a file cannot tell, so the model's name must ("…-quickgelu").
    """
    import open_clip

    if model.endswith(".json"):
        if not os.path.isfile(model):
            raise UserError(f"--vision-model {model} does not exist.")
        open_clip.add_model_config(model)
        model = os.path.basename(model).removesuffix(".json")
    if open_clip.get_model_config(model) is None:
        raise UserError(f"--vision-model {model} is no model of open_clip (open_clip.list_models() has them).")
    tags = open_clip.list_pretrained_tags_by_model(model)
    is_archive = False
    if load_weights and weights is not None and weights not in tags:
        if not os.path.isfile(weights):
            raise UserError(
                f"--vision-weights {weights} is neither a file nor one of {model}'s: {', '.join(tags)}, none."
            )
        is_archive = _is_torchscript(weights)
        if is_archive and not open_clip.get_model_config(model).get("quick_gelu"):
            raise UserError(
                f"--vision-weights {weights} is one of OpenAI's archives, whose weights want QuickGELU: give a "
                f"--vision-model with it ({model}-quickgelu)."
            )
    tag = open_clip.get_pretrained_cfg(model, weights) if weights in tags else {}
    try:
        whole = open_clip.create_model(
            model,
            pretrained=weights if load_weights else None,
            force_image_size=image_size,
            force_quick_gelu=weights == "openai" or bool(tag.get("quick_gelu")),
            pretrained_hf=False,
            load_weights_only=not is_archive,
            device=torch.get_default_device(),
        )
    except Exception as error:  # torch, safetensors and the network raise anything on a file that is none
        reason = textwrap.shorten(str(error), 500)  # of another model's, it lists every tensor
        raise UserError(f"--vision-weights {weights} could not be loaded into {model}: {reason}") from None
    visual = whole.visual
    if not hasattr(visual, "transformer") or not hasattr(visual, "_embeds"):
        raise UserError(f"--vision-model {model} is not one of open_clip's own vision transformers.")
    layers = len(visual.transformer.resblocks)
    if not 0 <= trainable_layers <= layers:
        raise UserError(f"--trainable-vision-layers must be 0 to {layers}, not {trainable_layers}.")
    # The tag's own, also where its weights are not loaded since a checkpoint's are about to be.
    mean = tag.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = tag.get("std") or open_clip.OPENAI_DATASET_STD
    return ClipVision(visual, mean, std, trainable_layers)


def _is_torchscript(path: str) -> bool:
    """Whether a file is a TorchScript archive, the form of OpenAI's own releases."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
