"""The command of fairseq-train that fine-tunes a checkpoint (`kosmos-finetune`).

checkpoint ─┬─ cfg.model ─→ --arch, and what differs from its preset
            ├─ input format ─→ --image-tokens, --image-size, --image-fit, --tokens-per-sample
            └─ vocabulary ─→ SAVE_DIR/vocabulary, --vocabulary
options of the user, in place of these and of the defaults of a training that are here
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from kosmos_plugin.atomic import write_text
from kosmos_plugin.checkpoints.adapter import require_whole_model
from kosmos_plugin.checkpoints.fairseq_checkpoint import VOCABULARY_FOLDER, checkpoint_file, read_kosmos, read_unmerged
from kosmos_plugin.checkpoints.files import new_target
from kosmos_plugin.data.config import DataConfig, read_data_config
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.criterion import CRITERION
from kosmos_plugin.models.config import ARCHITECTURES, INPUT_FORMAT, KosmosConfig
from kosmos_plugin.vocabulary import DICTIONARY_FILE, MODEL_FILE, Vocabulary

# Options of a model that say how it is trained, on which machine and from which weights: not what it is.
_OF_A_TRAINING = {
    "initialization",
    "attention",
    "checkpoint_activations",
    "bf16_autocast",
    "compile",
    "decoder_weights",
    "frozen_vision_dtype",
    "cache_vision_features",
    *(field.name for field in dataclasses.fields(KosmosConfig) if field.name.startswith("lora_")),
}
# Of all weights: the paper's of instruction tuning (Table 19). Of an adapter: ten times as much, as is usual.
LR, ADAPTER_LR = "2e-5", "2e-4"
WARMUP = 0.05  # of the updates
ROWS = 16  # in a micro-batch at most
# Options of fairseq that name the same thing: if the user gives one, the others' defaults are left out.
_ALTERNATIVES = (
    ("--batch-size", "--max-sentences", "--max-tokens"),
    ("--lr-scheduler", "--warmup-updates", "--total-num-update"),
    ("--bf16", "--bf16-autocast", "--fp16", "--amp", "--memory-efficient-bf16", "--memory-efficient-fp16", "--cpu"),
)


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """What a fine-tuning starts from, and its main options."""

    checkpoint: Path
    data: Path
    vocabulary: str | None  # the checkpoint's, if it moved
    lora_rank: int
    max_update: int
    save_dir: Path


def finetuning_command(finetuning: Finetuning, further: Sequence[str] = ()) -> list[str]:
    """The arguments of fairseq-train. The checkpoint's vocabulary is written to SAVE_DIR/vocabulary.

    Args:
        finetuning: The checkpoint, the data and the main options.
        further: Options of fairseq-train that replace or add to those made here.

    Raises:
        UserError: The checkpoint is not a whole KOSMOS model, its vocabulary is not found, or the data does not fit it.
    """
    source, save_dir = checkpoint_file(finetuning.checkpoint), finetuning.save_dir
    if save_dir.resolve() == source.resolve().parent:
        raise UserError(f"--save-dir {save_dir} is the folder of {source}, which would be overwritten: give another.")
    state = read_unmerged(source)
    require_whole_model(state, source)
    checkpoint = read_kosmos(source, vocabulary=finetuning.vocabulary)
    data = read_data_config(finetuning.data, files_must_exist=False)
    _check_vocabulary(data, checkpoint.vocabulary)
    vocabulary = _written_vocabulary(checkpoint.vocabulary, save_dir / VOCABULARY_FOLDER)
    groups = (
        {"--task": "kosmos_multimodal", "--arch": state["cfg"]["model"]["_name"], "--criterion": CRITERION},
        _start(source, finetuning.lora_rank),
        {"--vocabulary": str(vocabulary)},
        _architecture(state["cfg"]["model"]["_name"], checkpoint.config, save_dir),
        _training(finetuning, data),
        {"--save-dir": str(save_dir)},
    )
    options = {name: value for group in groups for name, value in group.items()}
    arguments = [str(finetuning.data)]
    for name, value in options.items():
        if not _is_given(name, further):
            arguments += [name] if value is None else [name, value]
    return [*arguments, *further]


def _start(source: Path, lora_rank: int) -> dict[str, str | None]:
    """The weights to start from, as an absolute path: the result records it."""
    path = str(source.absolute())
    return {"--lora-base": path, "--lora-rank": str(lora_rank)} if lora_rank else {"--finetune-from-model": path}


def _architecture(name: str, config: KosmosConfig, save_dir: Path) -> dict[str, str | None]:
    """The options of the model and its input format that differ from their defaults.

    The JSON file of a vision encoder that the checkpoint carries is written to SAVE_DIR/vision_model.json.
    """
    preset, options = ARCHITECTURES[name](), dict[str, str | None]()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _OF_A_TRAINING or value == getattr(preset, field.name):
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if field.name not in INPUT_FORMAT and isinstance(value, bool):
            if value:
                options[flag] = None
        elif value is not None:
            options[flag] = str(value)
    if config.vision_model.endswith(".json"):
        options["--vision-model"] = str(Path(config.vision_model).absolute())
    elif config.vision_model.lstrip().startswith("{"):
        write_text(save_dir / "vision_model.json", config.vision_model)
        options["--vision-model"] = str((save_dir / "vision_model.json").absolute())
    return options


def _training(finetuning: Finetuning, data: DataConfig) -> dict[str, str | None]:
    updates = finetuning.max_update
    options: dict[str, str | None] = {
        "--optimizer": "fused_adamw",
        "--clip-norm": "1",
        "--lr": ADAPTER_LR if finetuning.lora_rank else LR,
        "--lr-scheduler": "polynomial_decay",
        "--warmup-updates": str(max(round(WARMUP * updates), 1)),
        "--total-num-update": str(updates),
        "--max-update": str(updates),
        "--batch-size": str(ROWS),
    }
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        options["--bf16"] = None
    if not any(corpus.valid for stream in data.streams for corpus in stream.corpora):
        options["--disable-validation"] = None
    return options | {"--no-epoch-checkpoints": None}


def _is_given(name: str, further: Sequence[str]) -> bool:
    """Whether the user's options replace the option `name`."""
    given = {argument.partition("=")[0] for argument in further if argument.startswith("--")}
    return any(given & set(names) for names in ((name,), *(group for group in _ALTERNATIVES if name in group)))


def _check_vocabulary(data: DataConfig, vocabulary: Vocabulary) -> None:
    """Check that binarized text has the checkpoint's tokens. Images' captions and pages are tokenized in training."""
    folder = Path(data.vocabulary)
    has_text = any(stream.kind == "text" for stream in data.streams)
    if has_text and (folder / MODEL_FILE).is_file() and (folder / DICTIONARY_FILE).is_file():
        other = Vocabulary.load(folder)
        if other.fingerprint != vocabulary.fingerprint:
            raise UserError(
                f"The text of {data.path} has tokens of the vocabulary {folder}, which is not the checkpoint's: "
                "binarize it again with the checkpoint's (kosmos-prepare text --vocabulary FOLDER)."
            )


def _written_vocabulary(vocabulary: Vocabulary, folder: Path) -> Path:
    """Write the vocabulary beside the coming checkpoints, where loading a model finds it."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with new_target(folder, folder=True) as path:
                vocabulary.save(path)
        except UserError:  # another rank may have been faster
            if not folder.exists():
                raise
    there = Vocabulary.load(folder)
    if there.encoding_fingerprint != vocabulary.encoding_fingerprint:
        raise UserError(f"{folder} holds another vocabulary than the checkpoint's: give another --save-dir.")
    return folder
