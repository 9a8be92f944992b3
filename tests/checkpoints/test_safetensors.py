"""Any fairseq checkpoint → safetensors and back, bit by bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.generation.generator import load
from tests import tiny

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return tiny.train(data, folder, "--max-update", 1, "--disable-validation")


def assert_same_checkpoint(path, other) -> None:
    states = [torch.load(p, weights_only=True) for p in (path, other)]
    weights, others = (state["model"] for state in states)
    assert list(weights) == list(others)
    for name, tensor in weights.items():
        assert tensor.dtype == others[name].dtype
        assert tensor.shape == others[name].shape
        assert tensor.reshape(-1).view(torch.uint8).equal(others[name].reshape(-1).view(torch.uint8)), name
    assert states[0]["cfg"] == states[1]["cfg"]


def test_trained_checkpoint_there_and_back(checkpoint, data, tmp_path):
    convert(checkpoint, tmp_path / "model.safetensors", "safetensors")
    convert(tmp_path / "model.safetensors", tmp_path / "model.pt", "fairseq")
    assert_same_checkpoint(checkpoint, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=True)["model"]
    assert again["decoder.embed_tokens.weight"].data_ptr() == again["decoder.output_projection.weight"].data_ptr()
    kosmos, other = load(checkpoint), load(tmp_path / "model.safetensors")
    assert kosmos.generate("the cat", max_new_tokens=8) == other.generate("the cat", max_new_tokens=8)


def test_training_continues_from_it(checkpoint, data, tmp_path):
    convert(checkpoint, tmp_path / "model.safetensors", "safetensors")
    convert(tmp_path / "model.safetensors", tmp_path / "model.pt", "fairseq")
    options = ["--restore-file", tmp_path / "model.pt", "--max-update", 1, "--disable-validation", "--lr", 0]
    trained = tiny.train(data, tmp_path / "trained", *options)
    name = "resampler.dense.weight"
    before, after = (torch.load(path, weights_only=True)["model"][name] for path in (checkpoint, trained))
    assert torch.equal(before, after)  # continues with an update of learning rate 0


@settings(deadline=None, max_examples=20)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_any_tensors_there_and_back(tmp_path_factory, shapes, dtype, seed):
    """Also views of the same storage, transposed, empty and non-contiguous tensors."""
    folder = tmp_path_factory.mktemp("any")
    generator = torch.Generator().manual_seed(seed)
    weights = {f"a.{i}": torch.randn(shape, generator=generator).to(dtype) for i, shape in enumerate(shapes)}
    first = weights["a.0"]
    weights |= {"same": first, "flat": first.reshape(-1), "turned": first.transpose(0, -1) if first.dim() else first}
    torch.save({"model": weights, "cfg": {"model": {"_name": "transformer_lm"}, "x": [1, None]}}, folder / "in.pt")
    convert(folder / "in.pt", folder / "x.safetensors", "safetensors")
    convert(folder / "x.safetensors", folder / "out.pt", "fairseq")
    assert_same_checkpoint(folder / "in.pt", folder / "out.pt")


def test_names_are_the_models_own(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "model.safetensors", "safetensors")
    weights = torch.load(checkpoint, weights_only=True)["model"]
    stored = load_file(tmp_path / "model.safetensors")
    assert set(weights) - set(stored) == {"decoder.output_projection.weight"}  # one tensor with two names
    assert set(stored) <= set(weights)
