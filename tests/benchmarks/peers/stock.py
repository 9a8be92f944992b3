"""*Stock*: a KOSMOS model in fairseq on TorchScale's unchanged `Decoder`, as in KOSMOS-2's public code.

It has one padded caption per row; a T×T mask and the xPos tables in every layer; logits of all positions, whose
log-softmax in float32 goes to fairseq's own `cross_entropy`; and all of CLIP in the model's precision and in the graph.
Its options are those of `KosmosConfig`, and its weights have our names.
"""

from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from fairseq.models import BaseFairseqModel, register_model
from torch import nn
from torchscale.architecture.decoder import Decoder

from kosmos_plugin.data.batch import Collator
from kosmos_plugin.data.packing import PackedRow
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.fairseq_modules.architectures import fairseq_dataclass
from kosmos_plugin.images import normalize
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.decoder import decoder_config
from kosmos_plugin.models.resampler import build_resampler
from kosmos_plugin.options import option


@dataclass
class StockConfig(KosmosConfig):
    freeze_clip: bool = option(False, "cut the layers that are not trained off the graph")


class StockClip(nn.Module):
    """open_clip's vision tower: every token after `ln_post`, L2-normalized; its last layers are trained.

    Without `freeze_clip`, the other layers are in the graph too: their gradients are computed, but not used.
    """

    def __init__(self, config: StockConfig):
        super().__init__()
        name = config.vision_model
        if name.endswith(".json"):
            open_clip.add_model_config(name)
            name = Path(name).stem
        visual = open_clip.create_model(name, force_image_size=config.image_size, pretrained_hf=False).visual
        visual.proj = None
        self.encoder = nn.ModuleDict({"visual": visual})
        self.num_features, self.width = visual.positional_embedding.shape
        self.requires_grad_(False)
        blocks = visual.transformer.resblocks
        for module in (*blocks[len(blocks) - config.trainable_vision_layers :], visual.ln_post):
            module.requires_grad_(True)
        self.frozen = [parameter for parameter in self.parameters() if not parameter.requires_grad]
        self.keeps_graph = not config.freeze_clip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images uint8 [N, 3, S, S] → features [N, L, width]"""
        # Not earlier: the optimizer takes the parameters that require a gradient when the first step starts.
        for parameter in self.frozen:
            parameter.requires_grad_(self.keeps_graph)
            parameter.grad = None
        visual = self.encoder["visual"]
        mean, std = (
            torch.tensor(values, device=images.device)
            for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        )
        x = normalize(images, mean, std, visual.conv1.weight.dtype)
        return F.normalize(visual.ln_post(visual.transformer(visual._embeds(x))), dim=-1)


@register_model("stock", dataclass=fairseq_dataclass(StockConfig))
class StockModel(BaseFairseqModel):
    def __init__(self, config: StockConfig, vision: StockClip | None, resampler: nn.Module | None, decoder: Decoder):
        super().__init__()
        self.vision = vision
        self.resampler = resampler
        self.decoder = decoder
        self.padding_idx = decoder.embed_tokens.padding_idx

    @classmethod
    def build_model(cls, config: StockConfig, task) -> "StockModel":
        dictionary = task.source_dictionary
        embed_tokens = nn.Embedding(len(dictionary), config.decoder_embed_dim, dictionary.pad())
        decoder = Decoder(decoder_config(config, len(dictionary)), embed_tokens)
        if config.vision_encoder == "none":
            return cls(config, None, None, decoder)
        vision = StockClip(config)
        resampler = build_resampler(config, decoder.args, vision.num_features, vision.width)
        return cls(config, vision, resampler, decoder)

    def forward(
        self, tokens: torch.Tensor, image_slots: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, dict]:
        """tokens [B, T], image_slots bool [B, T], images uint8 [N, 3, S, S] → logits [B, T, V]"""
        embeddings = self.decoder.embed_tokens(tokens)
        if len(images):
            image_embeddings = self.resampler(self.vision(images))
            embeddings[image_slots] = image_embeddings.flatten(0, 1).to(embeddings.dtype)
        return self.decoder(tokens, tokens.eq(self.padding_idx), token_embeddings=embeddings)

    def get_normalized_probs(self, net_output, log_probs: bool, sample=None) -> torch.Tensor:
        logits = net_output[0].float()
        return F.log_softmax(logits, dim=-1) if log_probs else F.softmax(logits, dim=-1)


def stock_batch(samples: list[Sample], collator: Collator) -> dict:
    """One sample per row, padded to the longest, in the format of fairseq's `cross_entropy`.

    Images are decoded by our `collator`: data loading is measured elsewhere.
    """
    padded = Collator(
        collator.vocabulary, max(map(len, samples)), collator.image_size, collator.skips, collator.image_fit
    )
    batch = padded([PackedRow(0, False, (sample,)) for sample in samples])
    targets = batch["targets"]
    return {
        "net_input": {name: batch[name] for name in ("tokens", "image_slots", "images")},
        "target": targets,
        "ntokens": int(targets.ne(collator.vocabulary.pad).sum()),
        "nsentences": len(samples),
    }
