"""transformers' `Kosmos2ForConditionalGeneration` with our model's weights, trained as its users would train it.

Each row has one document, padded to the longest of its batch. The batches of an update, one for each stream, accumulate
gradients as in `transformers.Trainer`. The model computes its own loss from the logits of all positions; AdamW is
fused; CLIP is frozen except for its last layer; on a GPU it runs in bf16 autocast.
"""

import torch
from transformers import Kosmos2ForConditionalGeneration

from kosmos_plugin.checkpoints import huggingface_config, huggingface_weights
from kosmos_plugin.data.batch import Collator
from kosmos_plugin.data.packing import PackedRow
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.images import normalize
from kosmos_plugin.vocabulary import Vocabulary

IGNORED = -100  # their label of a position that is not in the loss


def kosmos2_model(ours: KosmosModel, vocabulary: Vocabulary) -> Kosmos2ForConditionalGeneration:
    """transformers' model with the same architecture, weights and trained parameters."""
    theirs = Kosmos2ForConditionalGeneration(huggingface_config.to_hf(ours, vocabulary))
    theirs.load_state_dict(huggingface_weights.to_hf(ours.state_dict()))
    for name, parameter in ours.named_parameters():
        for hf_name in huggingface_weights.hf_names(name):
            theirs.get_parameter(hf_name).requires_grad_(parameter.requires_grad)
    return theirs


def kosmos2_batch(samples: list[Sample], collator: Collator, encoder) -> dict[str, torch.Tensor]:
    """One sample per row, right-padded, as transformers' processor returns it; images are normalized for `encoder`."""
    length = max(map(len, samples))
    padded = Collator(collator.vocabulary, length, collator.image_size, collator.skips, collator.image_fit)
    batch = padded([PackedRow(0, False, (sample,)) for sample in samples])
    # Their labels are the tokens themselves: the model shifts them.
    labels = torch.full_like(batch["tokens"], IGNORED)
    targets = batch["targets"][:, :-1]
    labels[:, 1:] = torch.where(targets == collator.vocabulary.pad, IGNORED, targets)
    inputs = {"input_ids": batch["tokens"], "attention_mask": batch["document_ids"].ne(0).long(), "labels": labels}
    if len(batch["images"]):
        mean, std = torch.tensor(encoder.mean), torch.tensor(encoder.std)
        inputs["pixel_values"] = normalize(batch["images"], mean, std, torch.float32)
        inputs["image_embeds_position_mask"] = batch["image_slots"]
    return inputs


class Kosmos2Update:
    """An update as in `transformers.Trainer`: the loss of all batches, divided by their number of targets."""

    def __init__(self, model: Kosmos2ForConditionalGeneration):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).train()
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=2e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True
        )

    def __call__(self, batches: list[dict[str, torch.Tensor]]) -> None:
        targets = sum(number_of_targets(batch) for batch in batches)
        self.optimizer.zero_grad()
        for batch in batches:
            self.loss(batch, targets).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()

    def loss(self, batch: dict[str, torch.Tensor], targets: int) -> torch.Tensor:
        """The sum over the batch's targets divided by the update's `targets`, in nats."""
        inputs = {name: tensor.to(self.device) for name, tensor in batch.items()}
        # The whole model requires images; text without images goes to its language model.
        model = self.model if "pixel_values" in inputs else self.model.text_model
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return model(**inputs, num_items_in_batch=targets).loss


def number_of_targets(batch: dict[str, torch.Tensor]) -> int:
    return int(batch["labels"].ne(IGNORED).sum())
