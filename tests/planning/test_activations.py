"""Predicted memory of activations against what autograd keeps of the real layers, and what fits a GPU."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fairseq_cli_ext.inspect import cli_main
from kosmos_plugin.gpus import gpu_named
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.decoder import KosmosDecoder
from kosmos_plugin.models.flops import without_weights
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.lora import add_adapter
from kosmos_plugin.models.positions import xpos_rotation
from kosmos_plugin.planning.activations import image_bytes, layer_bytes
from kosmos_plugin.planning.command import read_training_command
from kosmos_plugin.planning.fit import GIB, largest_micro_batch, usable
from kosmos_plugin.planning.options import Assumptions
from kosmos_plugin.planning.plan import make_plan
from tests import tiny

TOKENS = 128
PRETRAIN = "examples/kosmos_1/pretrain.sh"


class FusedAttention:
    """Plain causal attention of one document, fused, as GPUs compute it."""

    def attend(self, q, k, v, dropout):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


class Kept:
    """The storages that autograd keeps for the backward pass, without those of `others`."""

    def __init__(self, others):
        self.others = {tensor.untyped_storage().data_ptr() for tensor in others}
        self.storages: dict[int, torch.Tensor] = {}

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    def keep(self, tensor):
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in self.others:
            self.storages.setdefault(pointer, tensor)
        return tensor

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.storages.values())


def kept_by_a_layer(config: KosmosConfig, dtype: torch.dtype, compiled: bool) -> int:
    """The difference between three layers and two, for each position; compiled by torch's partitioner alone."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Kosmos(config, None, None, KosmosDecoder(config, 50, 1)).train().to(dtype)
    if config.lora_rank:
        add_adapter(model)
    decoder = model.decoder
    rotation = xpos_rotation(torch.arange(TOKENS).unsqueeze(0), decoder.head_dim, decoder.args.xpos_scale_base)
    layers = [torch.compile(x, backend="aot_eager_decomp_partition") if compiled else x for x in decoder.layers]
    found = []
    for number in (3, 2, 3):  # the first compiles
        x = torch.randn(1, TOKENS, config.decoder_embed_dim, dtype=dtype, requires_grad=True)
        with Kept([*decoder.parameters(), *rotation]) as kept:
            for layer in layers[:number]:
                x = layer(x, rotation, FusedAttention())
        found.append(kept.bytes)
    return (found[2] - found[1]) // TOKENS


COMPILED = pytest.mark.parametrize(
    "compiled", [pytest.param(False, id="eager"), pytest.param(True, id="compiled", marks=pytest.mark.slow)]
)


# The CPU keeps whole tensors for dropout, where GPUs keep masks, so that it is 0 here.
@COMPILED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "inner"), [(64, 256), (128, 256)])
def test_a_layer_keeps_what_is_predicted(dtype, compiled, width, inner):
    config = KosmosConfig(
        decoder_layers=3, decoder_embed_dim=width, decoder_ffn_embed_dim=inner, decoder_attention_heads=4,
        dropout=0.0, attention_dropout=0.0, compile=compiled,
    )  # fmt: skip
    measured = kept_by_a_layer(config, dtype, compiled)
    assert layer_bytes(config, half=dtype == torch.bfloat16) == pytest.approx(measured, rel=0.05)


@COMPILED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [4, 32])
def test_a_layer_with_an_adapter_keeps_what_is_predicted(dtype, compiled, rank):
    pytest.importorskip("peft")
    config = KosmosConfig(
        decoder_layers=3, decoder_embed_dim=128, decoder_ffn_embed_dim=256, decoder_attention_heads=4,
        dropout=0.0, attention_dropout=0.0, compile=compiled, lora_rank=rank,
    )  # fmt: skip
    measured = kept_by_a_layer(config, dtype, compiled)
    assert layer_bytes(config, half=dtype == torch.bfloat16) == pytest.approx(measured, rel=0.05)


def test_images_keep_what_is_predicted(task, data):
    config = tiny.model_config(data)
    model = tiny.model(task).train()
    images = torch.zeros(3, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, dtype=torch.uint8)
    with Kept(model.parameters()) as kept:
        model.embed_images(images)
    predicted = image_bytes(without_weights(config, len(task.vocabulary), task.vocabulary.pad))
    assert 3 * predicted == pytest.approx(kept.bytes, rel=0.1)


@pytest.fixture(scope="module")
def pretraining():
    return make_plan(read_training_command(PRETRAIN), Assumptions())


def test_the_largest_micro_batch_fits_and_no_larger_one(pretraining):
    for name in ("H100", "H200", "A100 40GB"):
        gpu = gpu_named(name, "--gpu")
        rows = largest_micro_batch(pretraining, gpu)
        assert pretraining.peak_memory(rows) <= usable(gpu) * GIB < pretraining.peak_memory(rows + 1)


def test_after_an_update_it_is_what_was_measured(pretraining):
    """On one H200, without DDP's buckets, fairseq's trainer had 26.2 GiB allocated after an update."""
    one = dataclasses.replace(pretraining, command=dataclasses.replace(pretraining.command, ranks=1))
    assert sum(item.bytes for item in one.memory) / 2**30 == pytest.approx(26.2, rel=0.01)


def test_a_model_that_does_not_fit_by_data_parallelism(tmp_path, capsys, monkeypatch):
    """7B: 32 layers of 4,096 and 16,384."""
    here, script = Path.cwd(), tmp_path / "seven.sh"
    text = (here / PRETRAIN).read_text().replace("# kosmos-inspect: paper pretraining\n", "")
    for old, new in (("24 ", "32 "), ("2048 ", "4096 "), ("8192 ", "16384 ")):
        for option in ("--decoder-layers ", "--decoder-embed-dim ", "--decoder-ffn-embed-dim "):
            text = text.replace(f"{option}{old}", f"{option}{new}")
    text = text.replace('here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)', f"here={here}/examples/kosmos_1")
    script.write_text(text)
    cli_main(["--plan", str(script), "--gpu", "H100"])
    out = " ".join(capsys.readouterr().out.split())
    divided = "--fully-shard --bf16 --optimizer fused_adamw --checkpoint-activations full"
    assert f"does not fit, not even with one row. With {divided} it fits, at" in out

    monkeypatch.setenv("GPUS", "1")
    cli_main(["--plan", str(script), "--gpu", "H100"])
    out = " ".join(capsys.readouterr().out.split())
    assert f"does not fit, not even with one row. 2 GPUs hold it together with {divided}" in out


def test_an_unknown_gpu_is_one_line(capsys):
    with pytest.raises(SystemExit):
        cli_main(["--plan", PRETRAIN, "--gpu", "H10000"])
    assert "--gpu H10000 is not in the table of GPUs" in capsys.readouterr().err
