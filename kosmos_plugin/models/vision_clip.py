"""CLIP's vision transformers from open_clip: every token after `ln_post`, L2-normalized, without the projection."""

import hashlib
import json
import os
import tempfile
import textwrap

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import resize_pos_embed
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn

from kosmos_plugin.errors import UserError, require_file
from kosmos_plugin.models.vision import VisionEncoder
from kosmos_plugin.tensor_files import is_torchscript, read_pt, read_torchscript


class ClipVision(VisionEncoder):
    """open_clip's `VisionTransformer`. For ViT-L/14 at 224×224, L = 257 tokens of width W = 1,024.

    A layer is a residual block; `ln_post` belongs to the last one.

    Args:
        visual: open_clip's vision transformer, whose blocks are replaced.
        mean: For normalizing images, per channel.
        std: For normalizing images, per channel.
        trainable_layers: Number of last layers to train.
    """

    def __init__(
        self,
        visual: VisionTransformer,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        trainable_layers: int,
    ):
        super().__init__()
        blocks = visual.transformer.resblocks
        for number, block in enumerate(blocks):
            if type(block) is ResidualAttentionBlock:
                blocks[number] = FusedBlock(block)
        visual.proj = None  # the projection to the contrastive space is not used
        self.visual = visual
        self.mean, self.std = mean, std
        self.num_features, self.width = visual.positional_embedding.shape
        self.grid = visual.grid_size  # the class token comes before the patches
        self.first_trained = len(blocks) - trainable_layers
        self.train_ln_post = trainable_layers > 0

    def frozen(self, images: torch.Tensor) -> torch.Tensor:
        x_NLW = self.visual._embeds(images)
        for block in self.visual.transformer.resblocks[: self.first_trained]:
            x_NLW = block(x_NLW)
        return x_NLW

    def trainable(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.visual.transformer.resblocks[self.first_trained :]:
            x = block(x)
        return F.normalize(self.visual.ln_post(x), dim=-1)

    def layers(self) -> list[nn.Module]:
        return list(self.visual.transformer.resblocks)

    def trained_modules(self) -> list[nn.Module]:
        ln_post = [self.visual.ln_post] if self.train_ln_post else []
        return [*self.visual.transformer.resblocks[self.first_trained :], *ln_post]


class FusedBlock(nn.Module):
    """open_clip's block with the same submodules, without the forward pass of `nn.MultiheadAttention`.

    `nn.MultiheadAttention` transposes [N, L, W] to [L, N, W]. On such a view, without an autograd graph and outside the
    float32 fast path, torch's linear layers copy their weight N times.
    """

    def __init__(self, block: ResidualAttentionBlock):
        super().__init__()
        self.ln_1, self.attn, self.ls_1 = block.ln_1, block.attn, block.ls_1
        self.ln_2, self.mlp, self.ls_2 = block.ln_2, block.mlp, block.ls_2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, L, W] → [N, L, W]"""
        attention = self.attn
        qkv = F.linear(self.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        q_NHLD, k_NHLD, v_NHLD = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended_NLW = F.scaled_dot_product_attention(q_NHLD, k_NHLD, v_NHLD).transpose(1, 2).flatten(2)
        x = x + self.ls_1(attention.out_proj(attended_NLW))
        return x + self.ls_2(self.mlp(self.ln_2(x)))


def clip(model: str, weights: str | None, image_size: int, trainable_layers: int, load_weights: bool) -> ClipVision:
    """Build the vision transformer of an open_clip model; see `build_vision_encoder`.

    `model` is one of `open_clip.list_models()`, a JSON file in open_clip's format, or its content. `weights` is one of
    the model's tags ("openai" and others), a .pt or .safetensors file of the whole CLIP, or None. For a tag whose
    weights were trained with QuickGELU, the model gets it too. A file does not record that, so `model` must
    ("…-quickgelu").

    Raises:
        UserError: The model or its weights do not exist or cannot be loaded.
    """
    if model.lstrip().startswith("{"):
        model = _register_content(model)
    elif model.endswith(".json"):
        _require_model_file(model)
        open_clip.add_model_config(model)
        model = os.path.basename(model).removesuffix(".json")
    if open_clip.get_model_config(model) is None:
        raise UserError(f"--vision-model {model} is not a model of open_clip (open_clip.list_models() names them).")
    tags = open_clip.list_pretrained_tags_by_model(model)
    file = archive = None  # one of the two, if `weights` is no tag
    if load_weights and weights is not None and weights not in tags:
        if not os.path.isfile(weights):
            raise UserError(
                f"--vision-weights {weights} is neither a file nor a tag of {model}: {', '.join(tags)}, none."
            )
        file, archive = (None, weights) if is_torchscript(weights) else (weights, None)
        if archive and not open_clip.get_model_config(model).get("quick_gelu"):
            raise UserError(
                f"--vision-weights {weights} is one of OpenAI's archives, whose weights need QuickGELU: give a "
                f"--vision-model that has it ({model}-quickgelu)."
            )
    tag = open_clip.get_pretrained_cfg(model, weights) if weights in tags else {}
    try:
        # open_clip gets only files that can be read weights-only: after some errors it tries again without.
        if file and not file.endswith((".safetensors", ".npz", ".npy")):
            read_pt(file)
        whole = open_clip.create_model(
            model,
            pretrained=weights if load_weights and not archive else None,
            force_image_size=image_size,
            force_quick_gelu=weights == "openai" or bool(tag.get("quick_gelu")),
            pretrained_hf=False,
            load_weights_only=True,
            device=torch.get_default_device(),
        )
        if archive:
            _load_archive(whole, archive)
    except Exception as error:  # torch, safetensors and the network raise anything on invalid files
        reason = textwrap.shorten(str(error), 500)  # it lists every tensor if the weights are another model's
        raise UserError(f"--vision-weights {weights} could not be loaded into {model}: {reason}") from None
    visual = whole.visual
    if not hasattr(visual, "transformer") or not hasattr(visual, "_embeds"):
        raise UserError(f"--vision-model {model} is not one of open_clip's own vision transformers.")
    # From the tag, even if its weights are not loaded because a checkpoint's will be.
    mean = tag.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = tag.get("std") or open_clip.OPENAI_DATASET_STD
    return ClipVision(visual, tuple(mean), tuple(std), trainable_layers)


def _register_content(content: str) -> str:
    """Make open_clip know a model by the content of its JSON file; returns its name there."""
    name = f"kosmos-{hashlib.blake2b(content.encode(), digest_size=8).hexdigest()}"
    if open_clip.get_model_config(name) is None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, f"{name}.json")
            with open(path, "w", encoding="utf-8") as file:
                file.write(content)
            _require_model_file(path)
            open_clip.add_model_config(path)
    return name


def _require_model_file(path: str) -> None:
    """Raise UserError unless `path` is a model in open_clip's JSON format."""
    require_file(path, "--vision-model")
    try:
        with open(path, encoding="utf-8") as file:
            parts = {"embed_dim", "vision_cfg", "text_cfg"} - json.load(file).keys()
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"--vision-model {path} is not a JSON object: {error}") from None
    if parts:
        raise UserError(f"--vision-model {path} is not a model in open_clip's format: it has no {min(parts)}.")


def _load_archive(model: open_clip.CLIP, path: str) -> None:
    """Load the weights of a TorchScript archive, the format of OpenAI's releases."""
    tensors = read_torchscript(path)
    for name in ("input_resolution", "context_length", "vocab_size"):
        tensors.pop(name, None)
    resize_pos_embed(tensors, model)
    model.load_state_dict(tensors)
