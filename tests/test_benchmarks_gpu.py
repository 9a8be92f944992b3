"""The benchmarks of a GPU, with small models on a CPU: that they run, and what their tables hold."""

import json
from pathlib import Path

import pytest
import torch

from kosmos_plugin.models.config import Kosmos2Config
from kosmos_plugin.vocabulary import Vocabulary
from tests import tiny
from tests.benchmarks import attention_gpu, full_size_gpu, generation_gpu, time_limit, training_speed
from tests.benchmarks.breakdown import PARTS, REST, part_of
from tests.benchmarks.noise import write_data
from tests.benchmarks.training import Work

pytestmark = pytest.mark.slow  # only concerns the benchmarks
GEOMETRY = {
    "decoder_layers": 2,
    "decoder_embed_dim": 32,
    "decoder_ffn_embed_dim": 64,
    "decoder_attention_heads": 2,
    "image_tokens": tiny.IMAGE_TOKENS,
    "image_size": tiny.IMAGE_SIZE,
}
STREAMS = {"text": (2, 96), "captions": (2, 128), "interleaved": (1, 64)}


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    (folder / "clip.json").write_text(json.dumps(tiny.CLIP))
    return write_data(folder, pieces=300)


@pytest.fixture(autouse=True)
def no_limit(monkeypatch):
    monkeypatch.setattr(time_limit, "_end", float("inf"))


def work(noise: Path, **streams) -> Work:
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in GEOMETRY.items())
    return Work(noise, "kosmos_base", f"{options} --vision-model {noise.parent}/clip.json", **streams)


def test_full_size(noise):
    result = full_size_gpu.measured(work(noise, **STREAMS), (5, 2))
    values = {row[0]: row[1] for row in result.rows}
    assert values["tokens in the update, images' embeddings included"] > 300
    assert min(values["tokens per second, micro-batches of 2 rows"].values) > 0
    assert [row[0] for row in result.more[0].rows] == [*PARTS, REST]
    assert all(row[1] > 0 for row in result.more[0].rows)


def test_full_size_leaves_out_what_does_not_fit(noise, monkeypatch):
    monkeypatch.setattr(time_limit, "left", lambda: 0.0)
    assert "micro-batches of 2 rows" not in str(full_size_gpu.measured(work(noise, **STREAMS), (5, 2)).rows)


def test_attention(noise):
    streams = {"captions": STREAMS["captions"], "text": STREAMS["text"]}
    works = {"all": work(noise, **STREAMS), **{name: work(noise, **{name: of}) for name, of in streams.items()}}
    result = attention_gpu.measured(works)
    found = [row[:2] for row in result.rows]
    assert found == [[mix, way] for way in attention_gpu.ways() for mix in works if [mix, way] in found]
    assert {way for _, way in found} >= {"documents", "masked"}
    assert all(row[3] > 0 for row in result.rows)


def test_generation(noise):
    config = Kosmos2Config(vision_model=f"{noise.parent}/clip.json", vision_weights="none", **GEOMETRY)
    vocabulary = Vocabulary.load(noise.parent / "vocabulary")
    sizes = generation_gpu.Sizes(words=5, new_tokens=6, captions=3, caption_tokens=4, beam=2)
    result = generation_gpu.measured(config, vocabulary, "cpu", torch.float32, sizes)
    assert [row[0].split(",")[0] for row in result.rows] == ["one sequence", "one sequence", "beam-2 captions"]
    assert "100% and 100% are equal on both sides" in result.notes[0]


def test_training_speed_leaves_out_what_does_not_fit(monkeypatch):
    """The first measure always runs; the time of the longest one decides about the next."""
    ran = []

    def row_of(measure, rates):
        ran.append(measure.name)
        return [[measure.name]], "a note"

    monkeypatch.setattr(training_speed, "write_data", lambda folder: folder)
    monkeypatch.setattr(training_speed, "row_of", row_of)
    monkeypatch.setattr(training_speed.arithmetic, "measured_rates", lambda: training_speed.Rates(1, 1, 1, 1))
    monkeypatch.setattr(time_limit, "left", lambda: -1.0 if ran else 1.0)
    result = training_speed.run(Path())
    assert ran == ["captions, against stock"]
    assert sum("not measured, since no time was left" in note for note in result.notes) == 2


@pytest.mark.parametrize(
    ("names", "part"),
    [
        # A kernel's name, then those of the operations that called it, from the inside.
        (["nvjet_tst_128x256", "aten::mm", "_SummedCrossEntropyBackward"], "output matrix and loss"),
        (["cutlass_75_tensorop_bf16_s1688gemm_bf16_256x128_nn_align1", "aten::mm"], "output matrix and loss"),
        (["nvjet_tst_128x256", "aten::addmm", "forward"], "matrices and convolutions"),
        (["cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "aten::_cudnn_attention_forward"], "attention"),
        (["pytorch_flash::flash_bwd_kernel", "aten::_flash_attention_backward", "backward"], "attention"),
        (["indexFuncLargeIndex", "aten::index_add_", "IndexSelectBackward0", "backward"], "gathering rows"),
        (["triton_per_fused_gelu_native_layer_norm_3", "Torch-Compiled Region"], list(PARTS)[-1]),
        (["reduce_kernel", "aten::linalg_vector_norm", "clip-grads"], "gradient norm and clipping"),
        (["elementwise_kernel", "aten::copy_", "optimizer"], "optimizer, with its copies"),
        (["multi_tensor_apply_kernel", "aten::_fused_adamw_", "optimizer"], "optimizer, with its copies"),
        (["vectorized_elementwise_kernel", "aten::add_", "backward"], REST),
        (["Memcpy HtoD (Pinned -> Device)", "aten::copy_"], REST),
    ],
)
def test_kernels_belong_to_parts(names, part):
    assert part_of(names) == part
