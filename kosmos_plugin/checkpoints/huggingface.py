"""A folder of transformers' `Kosmos2ForConditionalGeneration` ⇄ a folder with a fairseq checkpoint and its vocabulary.

TARGET/config.json, model.safetensors (or shards), tokenizer files       Hugging Face
TARGET/model.pt, vocabulary/ (and clip.json)                             fairseq
"""

import json
from collections.abc import Collection
from pathlib import Path

import torch

from kosmos_plugin.checkpoints import huggingface_config as configs
from kosmos_plugin.checkpoints import huggingface_processor as processors
from kosmos_plugin.checkpoints import huggingface_weights as weights
from kosmos_plugin.checkpoints.fairseq_checkpoint import (
    VOCABULARY_FOLDER,
    build_empty,
    new_checkpoint,
    read_kosmos,
)
from kosmos_plugin.checkpoints.files import Tensors, read_safetensors, require_file, written_whole
from kosmos_plugin.errors import UserError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CHECKPOINT_FILE = "model.pt"
TOWER_FILE = "clip.json"
# Buffers that older versions of transformers saved; they are computed.
_COMPUTED = ("vision_model.model.embeddings.position_ids", "text_model.model.embed_positions.weights")


def import_folder(source: Path, target: Path) -> None:
    """Hugging Face folder → folder `target` with a fairseq checkpoint. Raises UserError before `target` is there."""
    theirs = _read_config(source)
    config, tower = configs.to_ours(theirs)
    config.image_fit = processors.image_fit(source)
    tensors = _read_weights(source)
    with written_whole(target, folder=True) as folder:
        if tower is not None:
            (folder / TOWER_FILE).write_text(json.dumps(tower, indent=2))
            config.vision_model = str(folder / TOWER_FILE)
        processors.write_vocabulary(source, theirs.text_config.vocab_size, folder / VOCABULARY_FOLDER)
        state = new_checkpoint(configs.ARCHITECTURE, config, {}, str(folder / VOCABULARY_FOLDER))
        _, model = build_empty(state)
        state["model"] = _our_weights(tensors, model.state_dict(), not config.untied_embeddings, source)
        # The folder's own place, once it has its name.
        state["cfg"]["task"]["vocabulary"] = str(target.absolute() / VOCABULARY_FOLDER)
        if tower is not None:
            state["cfg"]["model"]["vision_model"] = str(target.absolute() / TOWER_FILE)
        torch.save(state, folder / CHECKPOINT_FILE)


def export_folder(source: Path, target: Path, data: str | None, vocabulary: str | None) -> None:
    """Checkpoint of the architecture kosmos_2 → Hugging Face folder `target`."""
    from huggingface_hub import save_torch_state_dict
    from transformers import Kosmos2ForConditionalGeneration

    state = read_kosmos(source, data, vocabulary)
    task, model = build_empty(state)
    config = configs.to_theirs(model, task.vocabulary)
    config.dtype = state["model"]["decoder.embed_tokens.weight"].dtype
    ours = dict(state["model"])
    if config.tie_word_embeddings:
        ours.pop("decoder.output_projection.weight", None)
    with torch.device("meta"):
        expected = Kosmos2ForConditionalGeneration(config).state_dict()
    if config.tie_word_embeddings:
        expected.pop("text_model.lm_head.weight")
    unknown = [name for name in ours if not set(weights.their_names(name)) & set(expected)]
    configs.refuse("transformers' Kosmos2ForConditionalGeneration", unknown)
    theirs = weights.to_theirs(ours)
    _require_same_names(theirs, expected, source)
    _require_same_shapes(theirs, expected, source)
    with written_whole(target, folder=True) as folder:
        config.save_pretrained(str(folder))
        processors.write_processor(task.vocabulary, model.vision.encoder, model.config, folder)
        contiguous = {name: tensor.contiguous() for name, tensor in theirs.items()}
        save_torch_state_dict(contiguous, str(folder), metadata={"format": "pt"})


def _read_config(source: Path):
    from transformers import Kosmos2Config

    require_file(source / CONFIG_FILE)
    try:
        model_type = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8")).get("model_type")
        if model_type == Kosmos2Config.model_type:
            return Kosmos2Config.from_pretrained(str(source))
    except Exception as error:  # transformers checks values in many ways
        raise UserError(f"{source / CONFIG_FILE} is not a configuration of transformers: {error}") from None
    raise UserError(
        f"{source / CONFIG_FILE} is of the model type {model_type!r}; {Kosmos2Config.model_type!r} is read."
    )


def _read_weights(source: Path) -> Tensors:
    """All tensors of model.safetensors, or of the shards that its index names."""
    index = source / INDEX_FILE
    if not index.is_file():
        if not (source / WEIGHTS_FILE).is_file():
            raise UserError(f"{source} has neither {WEIGHTS_FILE} nor {INDEX_FILE}.")
        return read_safetensors(source / WEIGHTS_FILE)[0]
    try:
        shard_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(shard_of.values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{index} is not an index of shards.") from None
    tensors: Tensors = {}
    for shard in shards:
        tensors.update(read_safetensors(source / shard)[0])
    if missing := sorted(set(shard_of) - set(tensors)):
        raise UserError(f"{source}: the shards lack {missing[0]}, which {INDEX_FILE} names.")
    return tensors


def _our_weights(theirs: Tensors, expected: Tensors, tied: bool, source: Path) -> Tensors:
    theirs = {name: tensor for name, tensor in theirs.items() if name not in _COMPUTED}
    if tied:
        theirs["text_model.lm_head.weight"] = theirs["text_model.model.embed_tokens.weight"]
    their_names = {their_name for name in expected for their_name in weights.their_names(name)}
    _require_same_names(theirs, their_names, source)
    ours = weights.to_ours(theirs, expected)
    _require_same_shapes(ours, expected, source)
    return ours


def _require_same_names(names: Collection[str], expected: Collection[str], source: Path) -> None:
    for verb, odd in (("lacks", set(expected) - set(names)), ("has besides", set(names) - set(expected))):
        if odd:
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            raise UserError(f"{source} {verb} {min(odd)}{more}: its weights do not fit its configuration.")


def _require_same_shapes(tensors: Tensors, expected: Tensors, source: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{source}: {name} is {tuple(tensor.shape)}, and {tuple(expected[name].shape)} by its configuration."
            )
