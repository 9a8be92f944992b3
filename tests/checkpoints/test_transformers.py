"""`kosmos-convert --to transformers`: a folder that transformers loads alone gives our logits, tokens and scores."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.generation.generator import Generator, load
from kosmos_plugin.generation.options import SearchOptions
from tests import tiny
from tests.checkpoints import exported

TRUST = {"trust_remote_code": True}


@pytest.fixture(scope="module", params=list(exported.VARIANTS))
def pair(request, tmp_path_factory) -> tuple[str, Path, Path]:
    """A variant, its checkpoint and its folder."""
    return request.param, *exported.write_folder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[Path, Path]:
    return exported.write_folder(tmp_path_factory.mktemp("clip"))


def load_model(folder: Path, kind: Any = AutoModelForCausalLM, **options: Any) -> Any:
    """`from_pretrained`, with no key missing, unexpected or of another shape."""
    model, report = kind.from_pretrained(str(folder), output_loading_info=True, **TRUST, **options)
    assert not any(report.values()), report
    return model.eval()


def batch(folder: Path, texts: list[str], images: list[list[bytes]], **options: Any) -> Any:
    """Prompts as transformers' model takes them, all in one batch."""
    if not any(images):
        return AutoTokenizer.from_pretrained(str(folder), **TRUST)(texts, padding=True, return_tensors="pt")
    processor = AutoProcessor.from_pretrained(str(folder), **TRUST)
    return processor(text=texts, images=images, padding=True, return_tensors="pt", **options)


@torch.no_grad()
def our_logits(kosmos: Generator, text: str, images: list[bytes]) -> torch.Tensor:
    """Of our model, for one prompt, [L, V]."""
    sample = kosmos.prompt(text, images)
    tokens = torch.from_numpy(sample.tokens)[None]
    config = kosmos.model.config
    pixels = [tiny.decode_image(image, config.image_size, config.image_fit) for image in images]
    slots = torch.from_numpy(sample.image_slots)[None]
    return kosmos.model(tokens, torch.ones_like(tokens), slots, torch.stack(pixels) if pixels else None)[0][0]


@torch.no_grad()
def test_same_tokens_logits_and_generations(pair):
    """In one batch of unequal prompts, padded on the left: logits, greedy search and beam search."""
    variant, checkpoint, folder = pair
    kosmos = load(checkpoint)
    texts, images = exported.prompts(kosmos)
    inputs = batch(folder, texts, images)
    theirs = load_model(folder, AutoModelForCausalLM if variant == "text" else AutoModelForImageTextToText)
    logits = theirs(**inputs).logits
    samples = [kosmos.prompt(text, files) for text, files in zip(texts, images, strict=True)]
    for row, (text, files, sample) in enumerate(zip(texts, images, samples, strict=True)):
        valid = inputs["attention_mask"][row].bool()
        assert inputs["input_ids"][row][valid].tolist() == sample.tokens.tolist()
        ours = our_logits(kosmos, text, files)
        assert ours.std() > 0.3
        torch.testing.assert_close(logits[row][valid], ours, atol=1e-4, rtol=0)
    for beams in (1, 5):
        hypotheses = kosmos.search(samples, SearchOptions(num_beams=beams, max_new_tokens=16))
        found = theirs.generate(
            **inputs,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=16,
            output_scores=True,
            return_dict_in_generate=True,
        )
        new = found.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        for row, hypothesis in enumerate(hypotheses):
            expected = list(hypothesis.tokens)
            assert new[row][: len(expected)] == expected
            assert set(new[row][len(expected) :]) <= {kosmos.vocabulary.pad}
            if beams > 1:
                assert found.sequences_scores[row].item() == pytest.approx(hypothesis.score, abs=1e-4)


def test_there_and_back_gives_the_same_model(pair, tmp_path):
    """Directly, and after transformers loaded and saved it."""
    _, checkpoint, folder = pair
    convert(folder, tmp_path / "back", "fairseq")
    load_model(folder).save_pretrained(str(tmp_path / "saved"))
    convert(tmp_path / "saved", tmp_path / "again", "fairseq", vocabulary=str(folder / "vocabulary"))
    kosmos = load(checkpoint)
    texts, images = exported.prompts(kosmos)
    for back in ("back", "again"):
        ours, theirs = (torch.load(path, weights_only=True) for path in (checkpoint, tmp_path / back / "model.pt"))
        assert ours["model"].keys() == theirs["model"].keys()
        assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in ours["model"])
        returned = load(tmp_path / back / "model.pt")
        assert returned.vocabulary.newlines == kosmos.vocabulary.newlines
        assert torch.equal(our_logits(returned, texts[2], images[2]), our_logits(kosmos, texts[2], images[2]))
        left_out = {"vision_model", "vision_weights", "cache_vision_features"}
        for name, value in ours["cfg"]["model"].items():
            assert name in left_out or theirs["cfg"]["model"][name] == value, name


def test_every_auto_class_loads_it(clip):
    _, folder = clip
    assert AutoConfig.from_pretrained(str(folder), **TRUST).model_type == "kosmos"
    base = load_model(folder, AutoModel)
    whole = load_model(folder, AutoModelForImageTextToText)
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[f"model.{name}"])
    assert type(whole).__name__ == type(load_model(folder)).__name__ == "KosmosForConditionalGeneration"
    assert whole.lm_head.weight is whole.get_input_embeddings().weight
    assert type(AutoProcessor.from_pretrained(str(folder), **TRUST)).__name__ == "KosmosProcessor"
    assert type(AutoTokenizer.from_pretrained(str(folder), **TRUST)).__name__ == "KosmosTokenizer"


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision_is_kept_and_positions_stay_exact(tmp_path, dtype):
    """Positions beyond a thousand change bfloat16 scores by no more than the weights' own rounding."""
    _, folder = exported.write_folder(tmp_path, dtype=dtype)
    half = load_model(folder, dtype="auto")
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    ids = torch.randint(4, 60, (1, 24))
    exact = load_model(folder, dtype=torch.float32)(input_ids=ids).logits
    for first in (0, 1500):
        logits = half(input_ids=ids, position_ids=torch.arange(24)[None] + first).logits
        assert (logits - exact).abs().max() < 0.2 * exact.std()


@torch.no_grad()
def test_caches_attention_functions_and_chunks_agree(clip):
    """A static cache, no cache, eager attention with its weights, and a prompt read in two parts."""
    checkpoint, folder = clip
    kosmos = load(checkpoint)
    texts, images = exported.prompts(kosmos)
    inputs = batch(folder, texts, images)
    model = load_model(folder)
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
    expected = model.generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), expected)
    assert torch.equal(model.generate(**inputs, **options, use_cache=False), expected)
    assert model.generate(**inputs, **options, num_return_sequences=3, num_beams=3).shape[0] == 9
    eager = load_model(folder, attn_implementation="eager")
    assert torch.equal(eager.generate(**inputs, **options), expected)
    whole = eager(**inputs, output_attentions=True, output_hidden_states=True)
    assert len(whole.attentions) == len(whole.hidden_states) - 1 == 2
    valid = inputs["attention_mask"].bool()
    torch.testing.assert_close(whole.attentions[0].sum(-1)[:, 0][valid], torch.ones(int(valid.sum())))
    first = {name: inputs[name][:, :-1] for name in ("input_ids", "attention_mask")}
    read = model(**first, pixel_values=inputs["pixel_values"], use_cache=True)
    rest = model(
        input_ids=inputs["input_ids"][:, -1:],
        attention_mask=inputs["attention_mask"],
        past_key_values=read.get("cache", read.get("past_key_values")),
    )
    torch.testing.assert_close(rest.logits, whole.logits[:, -1:], atol=1e-4, rtol=0)


def test_right_padding_and_embeddings_give_the_same(clip):
    checkpoint, folder = clip
    texts, images = exported.prompts(load(checkpoint))
    model = load_model(folder)
    left, right = (batch(folder, texts, images, padding_side=side) for side in ("left", "right"))
    logits = [model(**inputs).logits[inputs["attention_mask"].bool()] for inputs in (left, right)]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)
    embeddings = model.model._embed(left["input_ids"], left["pixel_values"])
    given = model(inputs_embeds=embeddings, attention_mask=left["attention_mask"]).logits
    torch.testing.assert_close(given[left["attention_mask"].bool()], logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(clip, reentrant):
    checkpoint, folder = clip
    texts, images = exported.prompts(load(checkpoint))
    inputs = batch(folder, texts, images)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    gradients = []
    for checkpointing in (False, True):
        model = load_model(folder, dropout=0.0, attention_dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        gradients.append({name: x.grad for name, x in model.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_loss_is_the_mean_nll_of_the_labels(clip):
    checkpoint, folder = clip
    kosmos = load(checkpoint)
    model = load_model(folder)
    ids = torch.tensor([kosmos.prompt("the red cat sees a house").tokens.tolist()])
    loss = model(input_ids=ids, labels=ids).loss.item()
    [score] = kosmos.score("", candidates=["the red cat sees a house"])
    assert loss == pytest.approx(-score / (ids.shape[1] - 1), abs=1e-5)


def test_the_encoder_stays_in_evaluation_mode(tmp_path):
    _, folder = exported.write_folder(tmp_path, "efficientnet")
    model = load_model(folder).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.get_image_features(torch.randn(2, 3, 80, 80))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_peft_trains_an_adapter(clip, tmp_path):
    """A few updates lower the loss; the merged model goes back to fairseq with the adapter's effect."""
    peft = pytest.importorskip("peft")
    checkpoint, folder = clip
    kosmos = load(checkpoint)
    texts, images = exported.prompts(kosmos)
    inputs = batch(folder, texts, images)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "fc1"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_model(folder).train(), lora)
    optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], lr=2e-2)
    losses = []
    for _ in range(8):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    merged = model.merge_and_unload().eval()
    merged.save_pretrained(str(tmp_path / "merged"))
    convert(tmp_path / "merged", tmp_path / "ours", "fairseq", vocabulary=str(folder / "vocabulary"))
    trained = load(tmp_path / "ours" / "model.pt")
    valid = inputs["attention_mask"][2].bool()
    with torch.no_grad():
        expected = merged(**inputs).logits[2][valid]
    torch.testing.assert_close(our_logits(trained, texts[2], images[2]), expected, atol=1e-4, rtol=0)
    assert (our_logits(kosmos, texts[2], images[2]) - expected).abs().max() > 0.1


def test_the_card_and_generation_settings(clip):
    checkpoint, folder = clip
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: image-text-to-text" in card and "| architecture | kosmos_1 |" in card
    settings = json.loads((folder / "generation_config.json").read_text())
    vocabulary = load(checkpoint).vocabulary
    assert settings["eos_token_id"] == [vocabulary.eos, vocabulary.image_begin]
    assert str(folder.parent) not in (folder / "config.json").read_text()  # no path of this machine


def test_the_card_of_a_language_model(tmp_path):
    _, folder = exported.write_folder(tmp_path, "text")
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card and "vision encoder" not in card


def test_a_seed_gives_reproducible_samples(clip):
    checkpoint, folder = clip
    texts, images = exported.prompts(load(checkpoint))
    inputs, model = batch(folder, texts, images), load_model(folder)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(model.generate(**inputs, do_sample=True, max_new_tokens=12))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_random_prompts_agree(clip):
    checkpoint, folder = clip
    kosmos, model = load(checkpoint), load_model(folder)
    rng = random.Random(5)
    for _ in range(10):
        count = rng.randint(0, 4)
        text = "".join(f"{tiny.sentence(rng)} <image> " for _ in range(count)) + tiny.sentence(rng)
        images = [tiny.png(rng, rng.randint(20, 90)) for _ in range(count)]
        with torch.no_grad():
            theirs = model(**batch(folder, [text], [images])).logits[0]
        torch.testing.assert_close(theirs, our_logits(kosmos, text, images), atol=1e-4, rtol=0)
