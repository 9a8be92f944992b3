"""kosmos-finetune: the command that it makes is the checkpoint's model, and what the user gives comes first."""

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cli_ext import finetune
from kosmos_plugin.checkpoints.fairseq_checkpoint import new_checkpoint, write_fairseq
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.architectures import kosmos_config
from kosmos_plugin.fairseq_modules.finetuning import _OF_A_TRAINING
from kosmos_plugin.models.config import ARCHITECTURES, KosmosConfig
from kosmos_plugin.planning.command import read_training_command
from kosmos_plugin.vocabulary import Vocabulary, write_dictionary, write_encoding
from tests import tiny


def checkpoint_of(data: Path, folder: Path, architecture: str = "kosmos_tiny", **options) -> Path:
    """A checkpoint of a configuration, with the weights of a tiny model, which are not looked at."""
    weights = {f"w{number}": tiny.torch.zeros(1) for number in range(50)}
    config = ARCHITECTURES[architecture](**options)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.pt"
    path.unlink(missing_ok=True)
    write_fairseq(new_checkpoint(architecture, config, weights, str(data.parent / "vocabulary")), path)
    return path


def command(capsys, folder: Path, *arguments: object) -> str:
    """What kosmos-finetune prints."""
    save_dir = () if "--save-dir" in arguments else ("--save-dir", folder / "new")
    finetune.cli_main([*map(str, (*arguments, *save_dir)), "--dry-run"])
    return capsys.readouterr().out


def parsed(folder: Path, printed: str):
    (folder / "train.sh").write_text(printed)
    return read_training_command(str(folder / "train.sh")).config


CHANGES = {
    "decoder_layers": st.sampled_from([2, 24]),
    "decoder_attention_heads": st.sampled_from([2, 8]),
    "activation_fn": st.sampled_from(["gelu", "relu"]),
    "dropout": st.sampled_from([0.0, 0.1, 0.25]),
    "positions": st.sampled_from(["xpos", "sinusoidal", "both"]),
    "untied_embeddings": st.booleans(),
    "layernorm_eps": st.sampled_from([1e-5, 1e-6]),
    "vision_encoder": st.sampled_from(["clip", "none"]),
    "vision_weights": st.sampled_from(["openai", "none", "/a folder/it's.pt"]),
    "vision_model": st.sampled_from(["ViT-L-14", "ViT-B-16"]),
    "trainable_vision_layers": st.sampled_from([0, 1, 3]),
    "resampler": st.sampled_from(["attentive", "perceiver"]),
    "resampler_layers": st.sampled_from([2, 6]),
    "image_tokens": st.sampled_from([8, 64]),
    "image_size": st.sampled_from([128, 224]),
    "image_fit": st.sampled_from(["crop", "stretch"]),
    "tokens_per_sample": st.sampled_from([256, 2048]),
    # of a training
    "compile": st.booleans(),
    "bf16_autocast": st.booleans(),
    "checkpoint_activations": st.sampled_from(["none", "full"]),
    "cache_vision_features": st.booleans(),
}


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(architecture=st.sampled_from(sorted(ARCHITECTURES)), options=st.fixed_dictionaries({}, optional=CHANGES))
def test_the_model_is_the_checkpoints(data, tmp_path_factory, architecture, options):
    folder = tmp_path_factory.mktemp("made")
    path = checkpoint_of(data, folder, architecture, **options)
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda text, **kwargs: printed.append(text))
        finetune.cli_main([str(path), str(data), "--save-dir", str(folder / "new"), "--dry-run"])
    config = parsed(folder, printed[0])
    assert config.model._name == architecture and config.task.vocabulary == str(folder / "new" / "vocabulary")
    found, expected = kosmos_config(config.model), ARCHITECTURES[architecture](**options)
    for field in dataclasses.fields(KosmosConfig):
        if field.name not in _OF_A_TRAINING:
            assert getattr(found, field.name) == getattr(expected, field.name), field.name
    assert not (found.compile or found.bf16_autocast or found.cache_vision_features)


def test_all_of_the_model_or_an_adapter(data, tmp_path, capsys):
    path = checkpoint_of(data, tmp_path)
    config = parsed(tmp_path, command(capsys, tmp_path, path, data))
    assert config.checkpoint.finetune_from_model == str(path) and config.model.lora_rank == 0
    assert (config.optimization.max_update, config.optimization.lr, config.optimizer._name) == (
        1000, [2e-5], "fused_adamw",
    )  # fmt: skip
    assert (config.lr_scheduler.warmup_updates, config.lr_scheduler.total_num_update) == (50, 1000)
    assert not config.dataset.disable_validation
    config = parsed(tmp_path, command(capsys, tmp_path, path, data, "--lora-rank", 8, "--max-update", 10))
    assert config.checkpoint.finetune_from_model is None
    assert (config.model.lora_rank, config.model.lora_base) == (8, str(path))
    assert (config.optimization.lr, config.lr_scheduler.warmup_updates) == ([2e-4], 1)


def test_options_of_the_user_replace_ours(data, tmp_path, capsys):
    path = checkpoint_of(data, tmp_path, dropout=0.3)
    given = "--lr=0.5 --max-tokens 999 --lr-scheduler fixed --dropout 0.1 --seed 7 --update-freq 2 --optimizer adam"
    printed = command(capsys, tmp_path, path, data, *given.split())
    options = re.findall(r"--[\w-]+", printed)
    assert len(options) == len(set(options)), "none twice"
    config = parsed(tmp_path, printed)
    assert (config.optimization.lr, config.dataset.max_tokens, config.dataset.batch_size) == ([0.5], 999, None)
    assert (config.lr_scheduler._name, config.optimizer._name) == ("fixed", "adam")
    assert (config.model.dropout, config.common.seed, config.optimization.update_freq) == (0.1, 7, [2])


def test_data_without_validation(data, tmp_path, capsys):
    config = yaml.safe_load(data.read_text())
    del config["streams"]["text"]
    for stream in config["streams"].values():
        for corpus in stream["corpora"]:
            del corpus["valid"]
            corpus["train"] = str(data.parent / corpus["train"])
    config["vocabulary"] = "VOCABULARY"  # as kosmos-prepare leaves it
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(config))
    printed = command(capsys, tmp_path, checkpoint_of(data, tmp_path), tmp_path / "data.yaml")
    assert parsed(tmp_path, printed).dataset.disable_validation


def test_the_vocabulary_is_written_beside_the_new_checkpoints(data, tmp_path, capsys):
    """Also one with further tokens, encoded newlines, and pieces that are spelled like fairseq's symbols."""
    folder = tmp_path / "old" / "vocabulary"
    shutil.copytree(data.parent / "vocabulary", folder)
    (folder / "special_tokens.txt").write_text("<grounding>\n<phrase>\n")
    write_encoding(folder)
    path = checkpoint_of(data, tmp_path / "old")
    state = tiny.torch.load(path, weights_only=True)
    tiny.torch.save({**state, "task_state": {"newlines": True}}, path)
    with pytest.raises(SystemExit):  # the text's vocabulary is another
        command(capsys, tmp_path, path, data)
    assert "has tokens of the vocabulary" in capsys.readouterr().err
    shutil.copy(data, tmp_path / "data.yaml")
    command(capsys, tmp_path, path, tmp_path / "data.yaml")  # whose vocabulary cannot be looked at
    old, new = Vocabulary.load(folder), Vocabulary.load(tmp_path / "new" / "vocabulary")
    assert old.newlines and new.encoding_fingerprint == old.encoding_fingerprint
    assert list(map(new.symbol, range(len(new)))) == list(map(old.symbol, range(len(old))))
    assert new.encode("a dog\nand 😀") == old.encode("a dog\nand 😀")


def test_saving_a_vocabulary_with_marked_pieces(tmp_path):
    vocabulary = tiny.write_vocabulary(tmp_path / "first")
    lines = (tmp_path / "first" / "dict.txt").read_text().splitlines()
    marked = [f"{line} #fairseq:overwrite" if line.startswith("<image>") else line for line in lines]
    (tmp_path / "first" / "dict.txt").write_text("\n".join([*marked[:10], "<pad> 7 #fairseq:overwrite", *marked[10:]]))
    vocabulary = Vocabulary.load(tmp_path / "first")
    (tmp_path / "second").mkdir()
    vocabulary.save(tmp_path / "second")
    again = Vocabulary.load(tmp_path / "second")
    assert again.dictionary.symbols == vocabulary.dictionary.symbols
    assert again.dictionary.count == vocabulary.dictionary.count
    assert again.encoding_fingerprint == vocabulary.encoding_fingerprint
    write_dictionary(tmp_path / "second")  # the folder is an ordinary one


def test_the_checkpoints_own_folder_is_refused(data, tmp_path):
    path = checkpoint_of(data, tmp_path)
    parser = finetune.parser()
    with pytest.raises(UserError, match=r"--save-dir .* is the folder of .*, which would be overwritten"):
        finetune.run(parser.parse_args([str(path), str(data), "--save-dir", str(tmp_path), "--dry-run"]))


def test_another_vocabulary_in_the_new_folder_is_refused(data, tmp_path):
    path = checkpoint_of(data, tmp_path / "old")
    tiny.write_vocabulary(tmp_path / "new" / "vocabulary", pieces=60)
    parser = finetune.parser()
    with pytest.raises(UserError, match="another vocabulary than the checkpoint's: give another --save-dir"):
        finetune.run(parser.parse_args([str(path), str(data), "--save-dir", str(tmp_path / "new"), "--dry-run"]))
