"""`kosmos-convert` from and to transformers' KOSMOS-2: same logits, same generations, same tokens, nothing lost."""

import itertools
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, AutoTokenizer, Kosmos2Config, Kosmos2ForConditionalGeneration

from kosmos_plugin.checkpoints import huggingface, huggingface_config
from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.checkpoints.huggingface import WEIGHTS_FILES
from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.generation import static_stepper
from kosmos_plugin.generation.beam_search import SearchOptions
from kosmos_plugin.generation.generator import Generator, load
from kosmos_plugin.images import normalize
from kosmos_plugin.vocabulary import Vocabulary
from tests import tiny
from tests.checkpoints import peer

SENTENCES = ["the red cat sees a house", "", "  two   spaces ", "Ünknown ★ 12?", "and <image> </s> spelled <mask>"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return peer.write_folder(tmp_path_factory.mktemp("peer") / "kosmos-2")


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("imported") / "kosmos"
    convert(source, target, "fairseq")
    return target / "model.pt"


def prompts(kosmos: Generator, seed: int) -> list:
    """Prompts of unequal lengths: only text, one image, two images."""
    rng = random.Random(seed)
    texts = [tiny.sentence(rng), f"<image> {tiny.sentence(rng)}", f"<image> {tiny.sentence(rng)} <image> the"]
    return [kosmos.prompt(text, [tiny.png(rng) for _ in range(text.count("<image>"))]) for text in texts]


def inputs(kosmos: Generator, sample) -> dict:
    """A sample as transformers' model takes it."""
    tensors = {"input_ids": torch.from_numpy(sample.tokens)[None]}
    if sample.images:
        encoder = kosmos.model.vision.encoder
        images = torch.stack([tiny.decode(image) for image in sample.images])
        mean, std = torch.tensor(encoder.mean), torch.tensor(encoder.std)
        tensors["pixel_values"] = normalize(images, mean, std, torch.float32)
        tensors["image_embeds_position_mask"] = torch.from_numpy(sample.image_slots)[None]
    return tensors


@torch.no_grad()
def assert_equal_logits(kosmos: Generator, theirs: Kosmos2ForConditionalGeneration, seed: int = 0) -> None:
    for sample in prompts(kosmos, seed):
        tokens = torch.from_numpy(sample.tokens)[None]
        slots = torch.from_numpy(sample.image_slots)[None]
        images = torch.stack([tiny.decode(image) for image in sample.images]) if sample.images else None
        ours = kosmos.model(tokens, torch.ones_like(tokens), slots, images)[0]
        their_inputs = inputs(kosmos, sample)
        expected = (theirs if sample.images else theirs.text_model)(**their_inputs).logits
        assert expected.std() > 0.3
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_imported_model_gives_the_same_logits(source, imported):
    assert_equal_logits(load(imported), peer.load_strictly(source))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("static", [False, True])
def test_generations_are_identical(tmp_path, monkeypatch, seed, beam, static):
    """Ours in one batch of unequal prompts, theirs one by one; also with a GPU's steps of fixed shapes."""
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    source = peer.write_folder(tmp_path / "theirs", seed=seed)
    convert(source, tmp_path / "ours", "fairseq")
    kosmos, theirs = load(tmp_path / "ours" / "model.pt"), peer.load_strictly(source)
    samples = prompts(kosmos, seed)
    hypotheses = kosmos.search(samples, SearchOptions(num_beams=beam, max_new_tokens=16))
    vocabulary = kosmos.vocabulary
    for sample, hypothesis in zip(samples, hypotheses, strict=True):
        their_inputs = inputs(kosmos, sample)
        if sample.images:
            # Their `generate` repeats images for each beam, one per row, so two are passed as embeddings of one row.
            features = theirs.vision_model(their_inputs.pop("pixel_values"))[0]
            features = F.normalize(theirs.vision_model.model.post_layernorm(features), dim=-1)
            embeddings = theirs.image_to_text_projection(features)[0]
            their_inputs["image_embeds"] = embeddings.flatten(0, 1)[None]
        generated = theirs.text_model.generate(
            **their_inputs,
            attention_mask=torch.ones_like(their_inputs["input_ids"]),
            num_beams=beam,
            do_sample=False,
            max_new_tokens=16,
            eos_token_id=[vocabulary.eos, vocabulary.image_begin],
            suppress_tokens=[vocabulary.pad],
            pad_token_id=vocabulary.pad,
        )
        assert list(hypothesis.tokens) == generated[0, len(sample) :].tolist()


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 5, "length_penalty": 0.0},
        {"num_beams": 4, "length_penalty": 2.0},
        {"num_beams": 3, "repetition_penalty": 1.5},
        {"num_beams": 3, "no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    ],
)
def test_all_beams_are_identical_with_penalties_too(source, imported, monkeypatch, static, options):
    """Not only the best one, and with the scores of transformers."""
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    kosmos, theirs = load(imported), peer.load_strictly(source)
    count = options.get("num_beams", 1)
    for text in ("a red cat", "the", "a house near the river"):
        ids = torch.from_numpy(kosmos.prompt(text).tokens)[None]
        expected = theirs.text_model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            num_return_sequences=count,
            eos_token_id=[kosmos.vocabulary.eos, kosmos.vocabulary.image_begin],
            suppress_tokens=[kosmos.vocabulary.pad],
            pad_token_id=kosmos.vocabulary.pad,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
        found = kosmos.generate(text, max_new_tokens=12, n=count, details=True, **options).choices
        ended = [
            sequence[: len(choice.tokens)].tolist()
            for sequence, choice in zip(expected.sequences[:, ids.size(1) :], found, strict=True)
        ]
        assert [list(choice.tokens) for choice in found] == ended
        if count > 1:
            scores = pytest.approx(expected.sequences_scores.tolist(), abs=1e-4)
            assert [choice.score for choice in found] == scores


def test_there_and_back_gives_the_same_weights(source, imported, tmp_path):
    convert(imported, tmp_path / "back", "huggingface")
    ours, theirs = (peer.load_strictly(folder).state_dict() for folder in (tmp_path / "back", source))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("image_fit", ["crop", "stretch"])
def test_processor_goes_there_and_back(imported, tmp_path, image_fit):
    state = torch.load(imported, weights_only=True)
    state["cfg"]["task"]["image_fit"] = state["cfg"]["model"]["image_fit"] = image_fit
    shutil.copytree(imported.parent, tmp_path / "ours")
    torch.save(state, tmp_path / "ours" / "model.pt")
    convert(tmp_path / "ours" / "model.pt", tmp_path / "theirs", "huggingface")
    processor = AutoProcessor.from_pretrained(str(tmp_path / "theirs"))
    vocabulary = load(imported).vocabulary
    assert len(processor.tokenizer) == len(vocabulary)
    text = processor(text="the red cat", images=None)["input_ids"]
    assert text == [vocabulary.bos, *vocabulary.encode("the red cat")]
    convert(tmp_path / "theirs", tmp_path / "again", "fairseq")
    assert load(tmp_path / "again" / "model.pt").model.config.image_fit == image_fit


def test_tokens_are_the_same(source, imported):
    theirs, vocabulary = AutoTokenizer.from_pretrained(str(source)), load(imported).vocabulary
    assert [vocabulary.symbol(i) for i in range(len(vocabulary))] == theirs.convert_ids_to_tokens(range(len(theirs)))
    for sentence in [*SENTENCES[:3], *(tiny.sentence(random.Random(i)) for i in range(50))]:
        assert vocabulary.encode(sentence) == theirs(sentence, add_special_tokens=False)["input_ids"]


def test_a_trained_model_is_exported(imported, data, tmp_path):
    """Import, one update of fairseq-train from it, export: transformers gives the trained model's logits."""
    config = yaml.safe_load(data.read_text())
    shutil.copytree(data.parent, tmp_path / "data")
    yaml_path = tmp_path / "data" / "data.yaml"
    yaml_path.write_text(yaml.safe_dump({**config, "vocabulary": str(imported.parent / "vocabulary")}))
    options = ["--arch", "kosmos_2", "--decoder-layers", 3, "--vision-model", imported.parent / "clip.json"]
    options += ["--restore-file", imported, "--max-update", 1, "--disable-validation"]
    trained = tiny.train(yaml_path, tmp_path / "trained", *options)
    before, after = (torch.load(path, weights_only=True)["model"] for path in (imported, trained))
    name = "decoder.layers.0.ffn.fc1.weight"
    assert 0 < (after[name] - before[name]).abs().max() < 0.01  # one update away from the imported weights
    frozen = "vision.encoder.visual.conv1.weight"
    assert torch.equal(after[frozen], before[frozen])
    convert(trained, tmp_path / "out", "huggingface")
    assert_equal_logits(load(trained), peer.load_strictly(tmp_path / "out"))


@pytest.mark.parametrize("newlines", [True, False])
def test_newlines_are_named_where_transformers_has_none(imported, tmp_path, caplog, newlines):
    state = torch.load(imported, weights_only=True)
    state["task_state"] = {"newlines": newlines}
    shutil.copytree(imported.parent, tmp_path / "ours")
    torch.save(state, tmp_path / "ours" / "model.pt")
    convert(tmp_path / "ours" / "model.pt", tmp_path / "theirs", "huggingface")
    assert ("write </line> in prompts where a newline is meant" in caplog.text) == newlines
    if newlines:
        vocabulary = load(tmp_path / "ours" / "model.pt").vocabulary
        theirs = AutoTokenizer.from_pretrained(str(tmp_path / "theirs"))
        tokens = theirs("the red cat</line>sees a house", add_special_tokens=False)["input_ids"]
        assert tokens == vocabulary.encode("the red cat\nsees a house")
    convert(tmp_path / "theirs", tmp_path / "back", "fairseq")
    assert load(tmp_path / "back" / "model.pt").vocabulary.newlines == newlines
    assert Vocabulary.load(tmp_path / "back" / "vocabulary").newlines == newlines


@pytest.mark.parametrize(
    "options",
    [
        {"tie_word_embeddings": False, "text": {"tie_word_embeddings": False}},
        {"vision": {"hidden_act": "gelu"}},
        {"text": {"activation_function": "relu", "layer_norm_eps": 1e-3}},
        {"max_shard_size": "20KB"},
    ],
    ids=["untied", "gelu", "relu", "shards"],
)
def test_variants_there_and_back(tmp_path, options):
    source = peer.write_folder(tmp_path / "theirs", **options)
    convert(source, tmp_path / "ours", "fairseq")
    kosmos = load(tmp_path / "ours" / "model.pt")
    assert_equal_logits(kosmos, peer.load_strictly(source))
    convert(tmp_path / "ours" / "model.pt", tmp_path / "back", "huggingface")
    assert_equal_logits(kosmos, peer.load_strictly(tmp_path / "back"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_is_kept(imported, tmp_path, dtype):
    state = torch.load(imported, weights_only=True)
    state["model"] = {name: tensor.to(dtype) for name, tensor in state["model"].items()}
    shutil.copytree(imported.parent, tmp_path / "ours")
    torch.save(state, tmp_path / "ours" / "model.pt")
    convert(tmp_path / "ours" / "model.pt", tmp_path / "theirs", "huggingface")
    theirs = Kosmos2ForConditionalGeneration.from_pretrained(str(tmp_path / "theirs"))
    assert {parameter.dtype for parameter in theirs.parameters()} == {dtype}


def test_buffers_that_older_versions_saved(source, imported, tmp_path):
    folder = shutil.copytree(source, tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.lm_head.weight"] = tensors["text_model.model.embed_tokens.weight"].clone()
    tensors["text_model.model.embed_positions.weights"] = torch.zeros(130, 32)
    tensors["vision_model.model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(tensors, folder / "model.safetensors")
    convert(folder, tmp_path / "ours", "fairseq")
    weights, expected = (
        torch.load(path, weights_only=True)["model"] for path in (tmp_path / "ours/model.pt", imported)
    )
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def write_weights(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as `name`: a file, or an index of two shards."""
    save = save_file if ".safetensors" in name else torch.save
    if not name.endswith(".index.json"):
        save(tensors, folder / name)
        return
    stem, suffix = name.removesuffix(".index.json").split(".")
    shard_of = {tensor: f"{stem}-{i % 2 + 1:05}-of-00002.{suffix}" for i, tensor in enumerate(tensors)}
    for shard in set(shard_of.values()):
        save({tensor: x for tensor, x in tensors.items() if shard_of[tensor] == shard}, folder / shard)
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": shard_of}))


@pytest.mark.parametrize("present", [names for n in (1, 2, 4) for names in itertools.combinations(WEIGHTS_FILES, n)])
def test_of_several_files_of_weights_it_is_transformers_choice(source, tmp_path, present):
    """Each file holds other weights, as after saving a folder again in another form."""
    folder = shutil.copytree(source, tmp_path / "theirs", ignore=shutil.ignore_patterns("model*.safetensors"))
    tensors = load_file(source / "model.safetensors")
    for number, name in enumerate(present):
        write_weights(folder, name, {key: tensor + number for key, tensor in tensors.items()})
    expected = Kosmos2ForConditionalGeneration.from_pretrained(str(folder)).state_dict()
    found = huggingface.read_weights(folder)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_folder_saved_sharded_and_then_whole(source, tmp_path):
    """The old index and its shards stay in the folder."""
    folder = peer.write_folder(tmp_path / "theirs", seed=1, max_shard_size="20KB")
    shutil.copy(source / "model.safetensors", folder)
    convert(folder, tmp_path / "ours", "fairseq")
    assert_equal_logits(load(tmp_path / "ours" / "model.pt"), peer.load_strictly(source))


@torch.no_grad()
def test_the_exported_processor_makes_the_models_number_of_slots(imported, tmp_path):
    """AutoProcessor and generate, as a user of the folder calls them; KOSMOS-2's own number is 64, ours here is 4."""
    convert(imported, tmp_path / "theirs", "huggingface")
    processor = AutoProcessor.from_pretrained(str(tmp_path / "theirs"))
    theirs, kosmos = peer.load_strictly(tmp_path / "theirs"), load(imported)
    rng = random.Random(0)
    for number in range(3):
        (tmp_path / "image.png").write_bytes(tiny.png(rng))
        text = tiny.sentence(rng)
        inputs = processor(text=text, images=Image.open(tmp_path / "image.png"), return_tensors="pt")
        assert inputs["image_embeds_position_mask"].sum() == tiny.IMAGE_TOKENS, number
        generated = theirs.generate(**inputs, do_sample=False, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
        prompt = kosmos.prompt(f"<image> {text}", [tmp_path / "image.png"])
        assert list(kosmos.search([prompt], SearchOptions(max_new_tokens=8))[0].tokens) == generated.tolist()


def test_folder_can_be_moved(source, tmp_path):
    convert(source, tmp_path / "here", "fairseq")
    (tmp_path / "here").rename(tmp_path / "there")
    kosmos = KosmosModel.from_pretrained(str(tmp_path / "there"))
    assert_equal_logits(kosmos, peer.load_strictly(source))


def test_public_geometry_is_known_by_its_name():
    """KOSMOS-2's own configuration: open_clip's ViT-L/14 with QuickGELU, and the parameter count of transformers."""
    config, tower = huggingface_config.from_hf(Kosmos2Config())
    assert (config.vision_model, tower) == ("ViT-L-14-quickgelu", None)
    assert config.positions == "sinusoidal"
    with torch.device("meta"):
        theirs = Kosmos2ForConditionalGeneration(Kosmos2Config())
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 1_664_485_376
