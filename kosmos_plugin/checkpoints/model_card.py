"""The model card of an exported folder: how to use the model, and how it was trained."""

from typing import Any

from kosmos_plugin.models.kosmos import Kosmos

REPOSITORY = "kosmos_plugin"

_USE = """## Use

```
pip install "transformers>=4.57" torch pillow
```

Some versions of transformers 5, such as 5.5 and 5.10, also ask for torchvision.

{example}

`apply_chat_template` turns messages into the paper's "Question: … Answer:"; its template `plain` joins turns as they
are. The tokenizer puts `<s>` at the beginning and nothing at the end. Generation ends at `</s>`, or at `<image>`, as
the model makes no images.
"""

_EXAMPLE = """```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained("{name}", trust_remote_code=True)
inputs = processor(
    text="<image> Question: what is this? Answer:", images=Image.open("cat.png"), return_tensors="pt"
)
tokens = model.generate(**inputs, max_new_tokens=32)
print(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

A text has one `<image>` for each image, in any number and at any place. In a batch (`padding=True`), `images` are those
of all texts in order."""

_TEXT_EXAMPLE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)
inputs = tokenizer("Once upon a time", return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=32)
print(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""


_VISION = """
Of the vision encoder only the last layers were trained; freeze the others to train it in the same way."""


def model_card(name: str, model: Kosmos, state: dict[str, Any]) -> str:
    """The card in Markdown.

    Args:
        name: The folder's name.
        model: The model.
        state: The checkpoint, of which only `cfg` must be there.
    """
    reads_images = model.vision is not None
    task = "image-text-to-text" if reads_images else "text-generation"
    example = (_EXAMPLE if reads_images else _TEXT_EXAMPLE).format(name=name)
    architecture = state["cfg"]["model"]["_name"]
    facts = "\n".join(f"| {key} | {value} |" for key, value in _facts(model, state).items())
    return f"""---
library_name: transformers
pipeline_tag: {task}
tags: [kosmos, custom_code]
---

# {name}

A model of the architecture `{architecture}`, an open KOSMOS-1
([arXiv 2302.14045](https://arxiv.org/abs/2302.14045)), trained with `{REPOSITORY}`.

{_USE.format(example=example)}
## Training

| | |
|---|---|
{facts}

A trained copy of this folder goes back to fairseq with `kosmos-convert --to fairseq`.{_VISION if reads_images else ""}
"""


def _facts(model: Kosmos, state: dict[str, Any]) -> dict[str, Any]:
    """What the checkpoint says about its training; what it does not say is left out."""
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts: dict[str, Any] = {
        "architecture": state["cfg"]["model"]["_name"],
        "parameters": f"{parameters:,}",
        "decoder": f"{config.decoder_layers} layers of width {config.decoder_embed_dim}, "
        f"{config.decoder_attention_heads} heads, positions: {config.positions}",
        "longest sequence": f"{config.tokens_per_sample:,} tokens",
    }
    if model.vision is not None:
        facts["vision encoder"] = f"{config.vision_encoder}, {config.vision_model.rpartition('/')[2]}"
        facts["trained layers of the vision encoder"] = config.trainable_vision_layers
        facts["images"] = (
            f"{config.image_size}×{config.image_size} pixels ({config.image_fit}), "
            f"{config.image_tokens} embeddings each ({config.resampler} resampler)"
        )
    return {key: value for key, value in {**facts, **_training(state)}.items() if value is not None}


def _training(state: dict[str, Any]) -> dict[str, Any]:
    cfg = state["cfg"]

    def option(group: str, name: str) -> Any:
        values = cfg.get(group)
        return values.get(name) if isinstance(values, dict) else None

    history = state.get("optimizer_history") or [{}]
    updates = history[-1].get("num_updates")
    if not updates:  # a converted checkpoint, which does not know
        return {}
    precision = [name for name in ("fp16", "bf16") if option("common", name)]
    best = (state.get("extra_state") or {}).get("best")
    rate = option("optimization", "lr")
    return {
        "updates": f"{updates:,}",
        "optimizer": option("optimizer", "_name"),
        "weight decay": option("optimizer", "weight_decay"),
        "learning rate": ", ".join(map(str, rate)) if isinstance(rate, list) else rate,
        "schedule": option("lr_scheduler", "_name"),
        "warmup": option("lr_scheduler", "warmup_updates"),
        "gradient clipping": option("optimization", "clip_norm"),
        "precision": precision[0]
        if precision
        else "bfloat16 autocast"
        if option("model", "bf16_autocast")
        else "float32",
        "seed": option("common", "seed"),
        "best validation loss": best,
    }
