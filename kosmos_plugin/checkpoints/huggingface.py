"""A folder of transformers' `Kosmos2ForConditionalGeneration` (hf) ⇄ a folder with a fairseq checkpoint.

Hugging Face    config.json, model.safetensors or pytorch_model.bin (or shards and their index), the tokenizer's files
                (and encoding.json, if newlines are encoded)
fairseq         model.pt, vocabulary/ (and clip.json, if open_clip does not know the vision tower)
"""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kosmos_plugin.checkpoints import huggingface_config as configs
from kosmos_plugin.checkpoints import huggingface_processor as processors
from kosmos_plugin.checkpoints import huggingface_weights as weights
from kosmos_plugin.checkpoints.embedded import embedded_state
from kosmos_plugin.checkpoints.fairseq_checkpoint import VOCABULARY_FOLDER, build_empty, new_checkpoint, read_kosmos
from kosmos_plugin.checkpoints.files import new_target
from kosmos_plugin.checkpoints.state_dict import require_matching_names, require_matching_weights
from kosmos_plugin.errors import UserError, require_file
from kosmos_plugin.tensor_files import Tensors, read_pt, read_safetensors

if TYPE_CHECKING:
    from transformers import Kosmos2Config

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
INDEX_SUFFIX = ".index.json"
# In the order in which transformers looks for them: a folder that was saved again can hold older ones too.
WEIGHTS_FILES = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
)
CHECKPOINT_FILE = "model.pt"
TOWER_FILE = "clip.json"
# Computed buffers, which older versions of transformers saved.
_COMPUTED = ("vision_model.model.embeddings.position_ids", "text_model.model.embed_positions.weights")


def import_folder(source: Path, target: Path) -> None:
    """Convert a Hugging Face folder to a folder with a fairseq checkpoint.

    Raises:
        UserError: The source cannot be read or expressed, or the target cannot be written. Nothing is left behind then.
    """
    hf_config = _read_config(source)
    config, tower = configs.from_hf(hf_config)
    config.image_fit = processors.image_fit(source)
    text_config: Any = hf_config.text_config
    hf_weights = _read_weights(source)
    with new_target(target, folder=True) as folder:
        if tower is not None:
            (folder / TOWER_FILE).write_text(json.dumps(tower, indent=2))
            config.vision_model = str(folder / TOWER_FILE)
        vocabulary = processors.write_vocabulary(source, text_config.vocab_size, folder / VOCABULARY_FOLDER)
        expected = build_empty(config, vocabulary).state_dict()
        ours = _our_weights(hf_weights, expected, not config.untied_embeddings, source)
        final = target.absolute()  # the checkpoint names files where they will be, not in the temporary folder
        if tower is not None:
            config.vision_model = str(final / TOWER_FILE)
        state = new_checkpoint(configs.ARCHITECTURE, config, ours, str(final / VOCABULARY_FOLDER))
        state["task_state"] = embedded_state(vocabulary, str(folder / TOWER_FILE))
        torch.save(state, folder / CHECKPOINT_FILE)


def export_folder(source: Path, target: Path, data: str | None, vocabulary: str | None) -> None:
    """Convert a checkpoint of the architecture kosmos_2 to a Hugging Face folder.

    Args:
        source: The checkpoint, .pt or .safetensors.
        target: The new folder.
        data: The data YAML of the source's training, if it moved.
        vocabulary: The source's vocabulary folder, if it moved.

    Raises:
        UserError: The source cannot be read or expressed, or the target cannot be written. Nothing is left behind then.
    """
    from huggingface_hub import save_torch_state_dict
    from transformers import Kosmos2ForConditionalGeneration

    checkpoint = read_kosmos(source, data, vocabulary)
    if checkpoint.vocabulary.newlines:
        logger.warning(
            "The model was trained with newlines encoded as </line>, and transformers' tokenizer turns them into "
            "spaces: write </line> in prompts where a newline is meant."
        )
    model = build_empty(checkpoint.config, checkpoint.vocabulary)
    hf_config = configs.to_hf(model, checkpoint.vocabulary)
    require_matching_weights(checkpoint.weights, model.state_dict(), source)
    hf_config.dtype = checkpoint.weights["decoder.embed_tokens.weight"].dtype
    ours = dict(checkpoint.weights)
    with torch.device("meta"):
        expected = Kosmos2ForConditionalGeneration(hf_config).state_dict()
    if hf_config.tie_word_embeddings:
        ours.pop("decoder.output_projection.weight", None)
        expected.pop("text_model.lm_head.weight")
    unknown = [name for name in ours if not set(weights.hf_names(name)) & set(expected)]
    configs.refuse("transformers' Kosmos2ForConditionalGeneration", unknown)
    hf_weights = weights.to_hf(ours)
    require_matching_weights(hf_weights, expected, source)
    with new_target(target, folder=True) as folder:
        assert model.vision is not None
        hf_config.save_pretrained(str(folder))
        processors.write_processor(checkpoint.vocabulary, model.vision.encoder, checkpoint.config, folder)
        contiguous = {name: tensor.contiguous() for name, tensor in hf_weights.items()}
        save_torch_state_dict(contiguous, str(folder), metadata={"format": "pt"})


def _read_config(source: Path) -> "Kosmos2Config":
    from transformers import Kosmos2Config

    path = source / CONFIG_FILE
    require_file(path)
    try:
        model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type")
        if model_type == Kosmos2Config.model_type:
            return Kosmos2Config.from_pretrained(str(source))
    except Exception as error:  # transformers checks values in many ways
        raise UserError(f"{path} is not a configuration of transformers: {error}") from None
    raise UserError(f"{path} has the model type {model_type!r}; only {Kosmos2Config.model_type!r} can be converted.")


def _read_weights(source: Path) -> Tensors:
    """All tensors of the folder, from the file that transformers would choose."""
    name = next((name for name in WEIGHTS_FILES if (source / name).is_file()), None)
    if name is None:
        raise UserError(f"{source} has no weights: none of {', '.join(WEIGHTS_FILES)}.")
    return _read_shards(source / name) if name.endswith(INDEX_SUFFIX) else _read_tensors(source / name)


def _read_shards(index: Path) -> Tensors:
    """The tensors of the shards that an index names."""
    try:
        shard_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(shard_of.values()))
        inside = all(Path(shard).name == shard for shard in shards)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise UserError(f"{index} is not an index of shards.") from None
    if not inside:
        raise UserError(f"{index} names a shard outside its folder.")
    tensors: Tensors = {}
    for shard in shards:
        tensors.update(_read_tensors(index.parent / shard))
    if missing := sorted(set(shard_of) - set(tensors)):
        raise UserError(f"{index.parent}: the shards lack {missing[0]}, which {index.name} names.")
    return tensors


def _read_tensors(path: Path) -> Tensors:
    """The tensors of a .safetensors or .bin file, by name."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    tensors = read_pt(path)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise UserError(f"{path} is not a file of weights: it holds something else than tensors by name.")
    return tensors


def _our_weights(hf_weights: Tensors, expected: Tensors, tied: bool, source: Path) -> Tensors:
    hf_weights = {name: tensor for name, tensor in hf_weights.items() if name not in _COMPUTED}
    embeddings = hf_weights.get("text_model.model.embed_tokens.weight")
    if tied and embeddings is not None:
        hf_weights["text_model.lm_head.weight"] = embeddings
    require_matching_names(hf_weights, {hf_name for name in expected for hf_name in weights.hf_names(name)}, source)
    ours = weights.from_hf(hf_weights, expected)
    require_matching_weights(ours, expected, source)
    return ours
