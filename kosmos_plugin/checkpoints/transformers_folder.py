"""A checkpoint of any architecture ⇄ a folder that transformers loads with `trust_remote_code=True`.

The folder needs nothing of this package:

    config.json, model.safetensors (or shards and their index), generation_config.json
    configuration_kosmos.py, modeling_kosmos.py, …   the code in `transformers_code/`
    tokenizer.json, tokenizer_config.json, preprocessor_config.json, processor_config.json, chat_template.jinja
    README.md                                        the model card
    vocabulary/                                      the vocabulary as it was in training, for the way back
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from kosmos_plugin.checkpoints import transformers_config as configs
from kosmos_plugin.checkpoints import transformers_weights as weights
from kosmos_plugin.checkpoints.embedded import embedded_state
from kosmos_plugin.checkpoints.fairseq_checkpoint import (
    VOCABULARY_FOLDER,
    build_empty,
    model_config,
    new_checkpoint,
    read_checkpoint,
    read_kosmos,
)
from kosmos_plugin.checkpoints.files import new_target
from kosmos_plugin.checkpoints.huggingface import CHECKPOINT_FILE, CONFIG_FILE, TOWER_FILE, read_weights
from kosmos_plugin.checkpoints.model_card import model_card
from kosmos_plugin.checkpoints.state_dict import require_matching_names, require_matching_weights
from kosmos_plugin.checkpoints.transformers_tokenizer import write_tokenizer
from kosmos_plugin.errors import UserError
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.tensor_files import Tensors
from kosmos_plugin.vocabulary import Vocabulary

CODE = Path(__file__).parent.parent / "transformers_code"


def export_folder(source: Path, target: Path, data: str | None, vocabulary: str | None) -> None:
    """Convert a checkpoint to a folder.

    Args:
        source: The checkpoint, .pt or .safetensors.
        target: The new folder.
        data: The data YAML of the source's training, if it moved.
        vocabulary: The source's vocabulary folder, if it moved.

    Raises:
        UserError: The source cannot be read or expressed, or the target cannot be written. Nothing is left behind then.
    """
    from huggingface_hub import save_torch_state_dict

    checkpoint = read_kosmos(source, data, vocabulary)
    state = read_checkpoint(source)
    model = build_empty(checkpoint.config, checkpoint.vocabulary)
    require_matching_weights(checkpoint.weights, model.state_dict(), source)
    hf_weights = _hf_weights(checkpoint.weights, tied=not checkpoint.config.untied_embeddings)
    dtype = checkpoint.weights["decoder.embed_tokens.weight"].dtype
    config = configs.model_config(model, checkpoint.vocabulary, state["cfg"]["model"]["_name"], dtype)
    with new_target(target, folder=True) as folder:
        _write_json(folder / CONFIG_FILE, config)
        _write_json(folder / "generation_config.json", configs.generation_config(checkpoint.vocabulary))
        write_tokenizer(checkpoint.vocabulary, checkpoint.config.tokens_per_sample, folder)
        if model.vision is not None:
            _write_json(folder / "preprocessor_config.json", configs.image_processor_config(model))
            _write_json(folder / "processor_config.json", configs.processor_config(model))
        _write_code(folder)
        checkpoint.vocabulary.save(folder / VOCABULARY_FOLDER)
        (folder / "README.md").write_text(model_card(target.name, model, state), encoding="utf-8")
        save_torch_state_dict(hf_weights, str(folder), metadata={"format": "pt"})


def import_folder(source: Path, target: Path, vocabulary: str | None) -> None:
    """Convert a folder back to a folder with a fairseq checkpoint.

    Args:
        source: The folder, as it was exported or as transformers saved it after training.
        target: The new folder.
        vocabulary: The vocabulary folder; by default the source's own, which transformers does not save again.

    Raises:
        UserError: The source cannot be read or expressed, or the target cannot be written. Nothing is left behind then.
    """
    hf_config = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))
    record = hf_config.get(configs.RECORD)
    if not isinstance(record, dict):
        raise UserError(
            f"{source / CONFIG_FILE} has no {configs.RECORD}, which kosmos-convert --to transformers writes."
        )
    config = model_config(source / CONFIG_FILE, record)
    its_vocabulary = Path(vocabulary) if vocabulary else source / VOCABULARY_FOLDER
    if not its_vocabulary.is_dir():
        raise UserError(f"{source} has no folder {VOCABULARY_FOLDER}: give the exported one's with --vocabulary.")
    loaded = Vocabulary.load(its_vocabulary)
    hf_weights = read_weights(source)
    with new_target(target, folder=True) as folder:
        has_own_tower = config.vision_encoder == "clip" and config.vision_model == configs.TOWER_FILE
        if has_own_tower:
            (folder / TOWER_FILE).write_text(json.dumps(configs.open_clip_tower(hf_config), indent=2))
            config.vision_model = str(folder / TOWER_FILE)
        model = build_empty(config, loaded)
        configs.require_same_architecture(hf_config, model, loaded, source / CONFIG_FILE)
        ours = _our_weights(hf_weights, model, source)
        final = target.absolute()  # the checkpoint names files where they will be, not in the temporary folder
        if has_own_tower:
            config.vision_model = str(final / TOWER_FILE)
        loaded.save(folder / VOCABULARY_FOLDER)
        state = new_checkpoint(record["_name"], config, ours, str(final / VOCABULARY_FOLDER))
        state["task_state"] = embedded_state(loaded, str(folder / TOWER_FILE))
        torch.save(state, folder / CHECKPOINT_FILE)


def _hf_weights(ours: Tensors, tied: bool) -> Tensors:
    """The folder's weights, contiguous; a tied output projection is left out."""
    kept = {name: tensor for name, tensor in ours.items() if not weights.is_computed(name)}
    if tied:
        kept.pop(weights.OUTPUT_PROJECTION, None)
    if unknown := [name for name in kept if weights.hf_name(name) is None]:
        raise UserError(f"--to transformers cannot express {unknown[0]}, a weight of this vision encoder.")
    return {name: tensor.contiguous() for name, tensor in weights.to_hf(kept).items()}


def _our_weights(hf_weights: Tensors, model: Kosmos, source: Path) -> Tensors:
    expected = model.state_dict()
    if not model.config.untied_embeddings and "model.decoder.embed_tokens.weight" in hf_weights:
        hf_weights = {**hf_weights, weights.HF_OUTPUT_PROJECTION: hf_weights["model.decoder.embed_tokens.weight"]}
    names = [name for name in expected if not weights.is_computed(name)]
    require_matching_names(hf_weights, weights.to_hf({name: expected[name] for name in names}), source)
    ours = weights.from_hf(hf_weights, names)
    dtype = ours["decoder.embed_tokens.weight"].dtype
    tables = {name: weights.computed(expected[name]).to(dtype) for name in expected if weights.is_computed(name)}
    ours = {name: tables[name] if name in tables else ours[name] for name in expected}
    require_matching_weights(ours, expected, source)
    return ours


def _write_code(folder: Path) -> None:
    """Copy the code and the chat templates."""
    for path in sorted(CODE.glob("*_kosmos.py")):
        shutil.copyfile(path, folder / path.name)
    shutil.copyfile(CODE / "chat_template.jinja", folder / "chat_template.jinja")
    (folder / "additional_chat_templates").mkdir()
    shutil.copyfile(CODE / "plain_chat_template.jinja", folder / "additional_chat_templates" / "plain.jinja")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
