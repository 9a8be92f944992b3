"""`load`: from a checkpoint to a Generator, wherever its vocabulary is now, and clear errors for mismatches."""

import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import kosmos_plugin
from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.checkpoints.fairseq_checkpoint import new_checkpoint, write_fairseq
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.generation.device import inference_dtype
from kosmos_plugin.generation.generator import Generator, load
from kosmos_plugin.vocabulary import write_encoding
from tests import tiny


@pytest.fixture(scope="module")
def model(data):
    return tiny.model(tiny.task(data))


@pytest.fixture
def state(data, model):
    """A checkpoint of the model, to be changed and written."""
    return new_checkpoint("kosmos_tiny", model.config, model.state_dict(), str(data.parent / "vocabulary"))


@pytest.fixture
def saved(state, tmp_path):
    """Writes `state` and returns its path."""

    def write():
        write_fairseq(state, tmp_path / "model.pt")
        return tmp_path / "model.pt"

    return write


def test_the_model_is_the_one_in_the_checkpoint(model, saved):
    path = saved()
    for kosmos in (load(path), kosmos_plugin.load(str(path)), KosmosModel.from_pretrained(str(path.parent))):
        assert not kosmos.model.training
        assert kosmos.model.config == model.config
        found = kosmos.model.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
        assert kosmos.sample_builder.max_tokens == tiny.TOKENS_PER_SAMPLE
        assert len(kosmos.prompt("<image>", [b""])) == 3 + tiny.IMAGE_TOKENS


def test_options_that_the_checkpoint_lacks_have_their_defaults(state, saved):
    del state["cfg"]["model"]["positions"]
    state["cfg"]["model"]["an_option_of_another_version"] = 1
    assert load(saved()).model.config.positions == "xpos"


def test_a_photo_is_seen_upright(saved):
    """A phone stores it as the sensor lies and says in EXIF how to turn it."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned, upright = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(turned, "PNG", exif=exif)
    Image.fromarray(np.rot90(pixels, -1)).save(upright, "PNG")
    kosmos = load(saved())
    scores = [kosmos.score("<image> a", [file.getvalue()], ["cat", "dog"]) for file in (turned, upright)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("recorded", [True, False, None])
def test_newlines_are_encoded_as_in_the_training(data, state, saved, tmp_path, recorded):
    """Whatever the vocabulary's folder says now. Checkpoints of version 0.1 and of KOSMOS-2 record nothing."""
    if recorded is not None:
        state["task_state"] = {"newlines": recorded}
    path = saved()
    convert(path, tmp_path / "model.safetensors", "safetensors")
    convert(tmp_path / "model.safetensors", tmp_path / "again.pt", "fairseq")
    shutil.copytree(data.parent / "vocabulary", tmp_path / "vocabulary")
    for name in ("model.pt", "model.safetensors", "again.pt"):
        for write in (lambda: None, lambda: write_encoding(tmp_path / "vocabulary")):
            write()
            kosmos = load(tmp_path / name)
            newlines = kosmos.vocabulary.line_end in kosmos.prompt("a cat\na dog").tokens
            assert newlines == bool(recorded)
            assert kosmos.vocabulary.decode([*kosmos.vocabulary.encode("a\nb")]) == ("a\nb" if recorded else "a b")


def test_where_the_vocabulary_is(data, state, saved, tmp_path):
    state["cfg"]["task"]["vocabulary"] = None
    path = saved()
    with pytest.raises(UserError, match=r"does not say where its vocabulary is.*--data or --vocabulary"):
        load(path)
    given, from_data = load(path, vocabulary=data.parent / "vocabulary"), load(path, data=str(data))
    (tmp_path / "vocabulary").symlink_to(data.parent / "vocabulary")
    for kosmos in (given, from_data, load(path)):
        assert kosmos.vocabulary.decode(kosmos.vocabulary.encode("the red cat")) == "the red cat"
    with pytest.raises(UserError, match=r"has no sentencepiece\.model"):
        load(path, vocabulary=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("resampler.latents"), "lacks resampler.latents: its weights do not match"),
        (lambda weights: weights.update(odd=torch.zeros(2)), "has the unexpected odd: its weights do not match"),
        (
            lambda weights: weights.update({"resampler.latents": torch.zeros(2)}),
            r"resampler.latents has the shape \(2,\)",
        ),
    ],
)
def test_weights_that_do_not_match_the_configuration(state, saved, change, message):
    change(state["model"])
    with pytest.raises(UserError, match=f"model.pt.*{message}") as error:
        load(saved())
    assert "\n" not in str(error.value)


def test_another_architecture_is_refused(state, saved):
    state["cfg"]["model"]["_name"] = "transformer_lm"
    with pytest.raises(UserError, match="is a checkpoint of transformer_lm, not of a KOSMOS model"):
        load(saved())


def test_options_of_generation_import_neither_torch_nor_fairseq():
    code = "import sys, kosmos_plugin.generation.options; print({'torch', 'fairseq'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", torch.bfloat16])
def test_the_precision_is_the_one_asked_for(model, saved, dtype):
    kosmos = kosmos_plugin.load(saved(), device="cpu", dtype=dtype)
    expected = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert (kosmos.dtype, kosmos.device) == (expected, torch.device("cpu"))
    assert {weight.dtype for weight in kosmos.model.parameters()} == {expected}
    image = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(image, "PNG")
    likely = Generator(model, kosmos.vocabulary, kosmos.sample_builder)
    arguments = ("<image> a", [image.getvalue()], ["cat", "the red dog"])
    assert kosmos.score(*arguments) == pytest.approx(likely.score(*arguments), rel=0.05)
    assert isinstance(kosmos.generate("<image> a", [image.getvalue()], num_beams=3, max_new_tokens=4), str)


def test_by_default_a_cpu_computes_in_float32():
    assert inference_dtype(None, torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cpu:x", ""])
def test_a_device_that_is_not_there_is_one_line(saved, device):
    with pytest.raises(UserError, match=rf"^The device '{device}' cannot be used: .+") as error:
        load(saved(), device=device)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["half", "int8", torch.int64, ""])
def test_a_precision_that_models_do_not_have(saved, dtype):
    with pytest.raises(UserError, match="dtype must be one of float32, bfloat16, float16"):
        load(saved(), device="cpu", dtype=dtype)
