"""Checks an exported folder against answers of ours, in an environment that has neither this package nor fairseq.

    python alone.py FOLDER ANSWERS.pt

ANSWERS.pt: {"prompts": [{"text", "images" (paths), "ids", "logits", "greedy", "beam"}, …]}
"""

import importlib.util
import sys

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor
from transformers import AutoTokenizer as Tokenizer

folder, answers = sys.argv[1], torch.load(sys.argv[2], weights_only=True)
for package in ("kosmos_plugin", "fairseq", "torchscale", "open_clip", "timm", "sentencepiece", "torchvision"):
    assert importlib.util.find_spec(package) is None, f"{package} is installed"

options = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **options)
processor = AutoProcessor.from_pretrained(folder, **options)
tokenizer = Tokenizer.from_pretrained(folder, **options)
model = AutoModelForImageTextToText.from_pretrained(folder, **options).eval()
assert type(AutoModelForCausalLM.from_pretrained(folder, **options)) is type(model)
assert set(AutoModel.from_pretrained(folder, **options).state_dict()) == {
    name.removeprefix("model.") for name in model.state_dict() if name.startswith("model.")
}
ids = tokenizer("a")["input_ids"]
assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in ids


def answer(inputs, beams: int) -> list[str]:
    with torch.no_grad():
        tokens = model.generate(**inputs, num_beams=beams, do_sample=False, max_new_tokens=24)
    texts = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


prompts = answers["prompts"]
worst = 0.0
for prompt in prompts:
    inputs = processor(text=prompt["text"], images=prompt["images"], return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == prompt["ids"], prompt["text"]
    with torch.no_grad():
        worst = max(worst, (model(**inputs).logits[0] - prompt["logits"]).abs().max().item())
assert worst <= 1e-4, worst
inputs = processor(
    text=[p["text"] for p in prompts], images=[p["images"] for p in prompts], padding=True, return_tensors="pt"
)
for beams, key in ((1, "greedy"), (5, "beam")):
    found = answer(inputs, beams)
    assert found == [prompt[key] for prompt in prompts], (key, found, [prompt[key] for prompt in prompts])
question = [{"type": "image", "url": prompts[0]["images"][0]}, {"type": "text", "text": "what is this?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": question}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
expected = processor(text="<image> Question: what is this? Answer:", images=prompts[0]["images"], return_tensors="pt")
assert torch.equal(inputs["input_ids"], expected["input_ids"])
torch.testing.assert_close(inputs["pixel_values"], expected["pixel_values"])
with torch.no_grad():  # a cache of fixed size
    static = model.generate(**expected, do_sample=False, max_new_tokens=8, cache_implementation="static")
    assert torch.equal(static, model.generate(**expected, do_sample=False, max_new_tokens=8))
model.train().gradient_checkpointing_enable()
model(**expected, labels=expected["input_ids"]).loss.backward()
print(f"transformers {transformers.__version__}: {len(prompts)} prompts, logits differ by at most {worst:.1e}")
