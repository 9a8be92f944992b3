"""How fairseq reads checkpoints for this task: nothing is unpickled, and what does not fit is one line.

fairseq reads with torch's default, which the environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD turns into
unpickling. A damaged file ends in a traceback, and another architecture in "please ensure that the architectures
match". Other tasks keep fairseq's own function.
"""

from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from fairseq.dataclass.utils import overwrite_args_by_name
from omegaconf import OmegaConf

from kosmos_plugin.checkpoints.adapter import (
    base_fingerprint,
    is_adapter,
    require_same_base,
    require_whole_model,
)
from kosmos_plugin.checkpoints.fairseq_checkpoint import read_unmerged, training_state, vocabulary_of
from kosmos_plugin.checkpoints.files import read_fairseq
from kosmos_plugin.checkpoints.newest import newest_whole
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules import fully_sharded
from kosmos_plugin.fairseq_modules.resuming import no_whole_one
from kosmos_plugin.models.config import ARCHITECTURES
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.lora import lora_alpha
from kosmos_plugin.vocabulary import Vocabulary

EMBEDDINGS = "decoder.embed_tokens.weight"
OF_VOCABULARY = {EMBEDDINGS, "decoder.output_projection.weight"}  # weights whose shape the vocabulary sets
# Options that change the names or shapes of weights.
WEIGHT_OPTIONS = (
    "decoder_layers",
    "decoder_embed_dim",
    "decoder_ffn_embed_dim",
    "vision_encoder",
    "vision_model",
    "resampler",
    "resampler_layers",
    "image_tokens",
    "image_size",
)
# Options that change what the same weights compute.
OTHER_OPTIONS = ("decoder_attention_heads", "activation_fn", "layernorm_eps", "positions", "untied_embeddings")
# The same, of an adapter.
ADAPTER_WEIGHT_OPTIONS, ADAPTER_OTHER_OPTIONS = ("lora_rank", "lora_targets"), ("lora_alpha",)


def restore_for(vocabulary: Vocabulary, model: Kosmos | None = None) -> None:
    """Make fairseq read checkpoints with `load_checkpoint`, for a vocabulary and, in training, a model."""

    def load_checkpoint_to_cpu(
        path: str, arg_overrides: dict[str, Any] | None = None, load_on_all_ranks: bool = False
    ) -> dict[str, Any]:
        return load_checkpoint(Path(path), arg_overrides or {}, vocabulary, model)

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


def load_checkpoint(
    path: Path, overrides: dict[str, Any], vocabulary: Vocabulary, model: Kosmos | None
) -> dict[str, Any]:
    """Read a checkpoint as fairseq's trainer and evaluation take it.

    Args:
        path: The checkpoint.
        overrides: Options to change in its configuration, by name.
        vocabulary: The vocabulary of the data.
        model: The model to fill; None if it is built from the checkpoint's configuration.

    Raises:
        UserError: The file is damaged, not of a KOSMOS model, or of another model or vocabulary.
    """
    divided = model is not None and fully_sharded.is_sharded(model)
    try:
        # A training goes on with these tensors; if its weights are divided, it takes its part of them.
        state = read_fairseq(path, mmap=divided)
    except UserError as error:
        raise UserError(f"{error}{_way_out(path)}") from None
    if "optimizer_history" not in state:
        state = training_state(state)
    try:
        _require_fit(state, path, vocabulary, model)
        if model is not None and divided:
            fully_sharded.shard_state(state, model)
        if state.get("cfg") is not None:
            state["cfg"] = OmegaConf.create(state["cfg"])
            overwrite_args_by_name(state["cfg"], overrides)
        return checkpoint_utils._upgrade_state_dict(state)
    except UserError:
        raise
    except Exception as error:  # a part is missing, or something else than fairseq writes
        raise UserError(f"{path} lacks a part of what fairseq writes: {type(error).__name__}: {error}") from None


def load_base(model: Kosmos, path: Path, vocabulary: Vocabulary) -> str:
    """Fill a model from the checkpoint that `--lora-rank` is to adapt, and return the fingerprint of its weights.

    Raises:
        UserError: As for `load_checkpoint`.
    """
    try:
        state = read_unmerged(path)
    except UserError as error:
        raise UserError(f"--lora-base {error}") from None
    require_whole_model(state, path)
    _require_fit(state, path, vocabulary, model)
    model.load_state_dict(state["model"])
    return base_fingerprint(state["model"])


def _way_out(path: Path) -> str:
    """What to do about a damaged checkpoint of a training."""
    if not path.name.startswith("checkpoint_last"):
        return ""
    found = newest_whole(path)
    if found is None:
        return f" {no_whole_one(path)}"
    return (
        f" The newest whole checkpoint beside it is {found.path.name}, of update {found.updates:,}: to go on from it, "
        f"give --resume-newest-whole, or copy it over {path.name} (cp {found.path} {path}) and give the same command."
    )


def _require_fit(state: dict[str, Any], path: Path, vocabulary: Vocabulary, model: Kosmos | None) -> None:
    """Raise UserError that names what differs between a checkpoint and the vocabulary and model to use it with."""
    options = (state.get("cfg") or {}).get("model") or {}
    architecture = options.get("_name")
    if architecture is not None and architecture not in ARCHITECTURES:
        raise UserError(
            f"{path} is a checkpoint of {architecture}, not of a KOSMOS model ({', '.join(ARCHITECTURES)}). A "
            "text-only model's can start the decoder (--decoder-weights)."
        )
    differences = _of_vocabularies(state, vocabulary)
    adapted = model.lora_base if model is not None else None
    if model is not None and adapted is None:
        require_whole_model(state, path)
    if adapted is not None:
        if not is_adapter(state):
            raise UserError(f"{path} holds a whole model, no adapter: to adapt it, give it as --lora-base.")
        require_same_base(state, adapted, path, "--lora-base")
    if model is not None:
        differences += _of_models(model, options, state["model"])
    if differences:
        raise UserError(f"{path} does not fit: {'; '.join(differences)}.")


def _of_vocabularies(state: dict[str, Any], vocabulary: Vocabulary) -> list[str]:
    embeddings = state["model"].get(EMBEDDINGS)
    if embeddings is not None and len(embeddings) != len(vocabulary):
        return [f"its vocabulary has {len(embeddings):,} tokens, and that of the data {len(vocabulary):,}"]
    if vocabulary_of(state) not in (None, vocabulary.fingerprint):
        return [f"its vocabulary and that of the data have {len(vocabulary):,} tokens both, but not the same ones"]
    return []


def _of_models(model: Kosmos, options: dict[str, Any], weights: dict[str, Any]) -> list[str]:
    here = _comparable(vars(model.config))
    there = {**here, **_comparable(options)}  # options that an older checkpoint lacks did not exist
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: getattr(tensor, "shape", None) for name, tensor in weights.items()}
    other = [name for name in (expected.keys() | found.keys()) - OF_VOCABULARY if expected.get(name) != found.get(name)]
    of_adapter = model.lora_base is not None
    always = (*ADAPTER_OTHER_OPTIONS, *OTHER_OPTIONS) if of_adapter else OTHER_OPTIONS
    of_weights = (*ADAPTER_WEIGHT_OPTIONS, *WEIGHT_OPTIONS) if of_adapter else WEIGHT_OPTIONS
    names = (*always, *of_weights) if other else always
    differences = [
        f"--{name.replace('_', '-')} is {there[name]} there and {here[name]} here"
        for name in names
        if there[name] != here[name] and None not in (there[name], here[name])
    ]
    if other and not differences:
        name = min(other)
        differences = [f"its {name} is {_shape(found.get(name))}, and the model's {_shape(expected.get(name))}"]
    return differences


def _comparable(options: dict[str, Any]) -> dict[str, Any]:
    """Options without what may differ between equal models."""
    options = dict(options)
    if str(options.get("vision_model")).endswith(".json"):
        options["vision_model"] = Path(options["vision_model"]).name  # it may have been moved
    if options.get("resampler") != "perceiver":
        options["resampler_layers"] = None  # not used
    if options.get("lora_rank") and options.get("lora_alpha") is None:
        options["lora_alpha"] = lora_alpha(options["lora_rank"], None)
    return options


def _shape(shape: Any) -> str:
    return "missing" if shape is None else f"{tuple(shape)}"
