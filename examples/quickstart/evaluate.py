"""Measure the trained model on images it has never seen, and on the same questions with wrong images.

    python evaluate.py DATA_DIR RESULTS_DIR

easy-VQA    the official test questions, answered greedily; exact match.
benchmarks  easy-VQA's test images, captioned (CIDEr) and named, and drawings of things, named: see benchmarks.py.

It writes RESULTS_DIR/results.json, and RESULTS_DIR/evaluation with each answer of the benchmarks. With images shuffled
between questions, a correct answer can only come from the words.
"""

import argparse
import importlib.metadata
import json
import logging
import platform
import random
import re
import statistics
from pathlib import Path

import benchmarks
import torch
from records import CAPTION_PROMPT, answer_of, question_prompt
from tqdm import tqdm

from kosmos_plugin.evaluation.files import read_json_lines
from kosmos_plugin.generation.beam_search import SearchOptions, generated_text
from kosmos_plugin.generation.generator import Generator, load

BATCH = 256
SHOWN = 18  # examples of each kind in the report
SEED = 1
WHAT_IS_THIS = question_prompt("what is this?")


def other_images(images: list[str], rng: random.Random) -> list[str]:
    """For each item, another one of the images."""
    distinct = sorted(set(images))
    shuffled = distinct[:]
    rng.shuffle(shuffled)
    following = dict(zip(shuffled, shuffled[1:] + shuffled[:1], strict=True))
    return [following[image] for image in images]


def kind_of(answer: str, question: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "color" if "color" in question else "shape"


def answers(kosmos: Generator, questions: list[dict], images: list[Path], name: str) -> list[str]:
    """The model's greedy answer to each question about its image."""
    options = SearchOptions(max_new_tokens=6, stop=".")
    said: list[str] = []
    for begin in tqdm(range(0, len(questions), BATCH), desc=name):
        prompts = [
            kosmos.prompt(f"<image> {question_prompt(line['question'])}", [image])
            for line, image in zip(questions[begin : begin + BATCH], images[begin : begin + BATCH], strict=True)
        ]
        said += [answer_of(generated_text(kosmos.vocabulary, found)) for found in kosmos.search(prompts, options)]
    return said


def wilson(right: int, count: int, z: float = 1.96) -> list[float]:
    """95% confidence interval of a proportion (Wilson)."""
    share = right / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * ((share * (1 - share) + z * z / (4 * count)) / count) ** 0.5 / (1 + z * z / count)
    return [center - half, center + half]


def evaluate_easy_vqa(kosmos: Generator, folder: Path) -> tuple[dict, list[dict]]:
    questions = read_json_lines(folder / "easy_vqa.jsonl")
    names = [line["image"] for line in questions]
    own = answers(kosmos, questions, [folder / name for name in names], "easy-VQA")
    shuffled_names = other_images(names, random.Random(SEED))
    shuffled = answers(kosmos, questions, [folder / name for name in shuffled_names], "easy-VQA, shuffled")
    right = [said == line["answer"] for said, line in zip(own, questions, strict=True)]
    right_shuffled = [said == line["answer"] for said, line in zip(shuffled, questions, strict=True)]
    kinds = [kind_of(line["answer"], line["question"]) for line in questions]
    by_kind = {}
    for kind in sorted(set(kinds)):
        members = [i for i, other in enumerate(kinds) if other == kind]
        by_kind[kind] = {
            "accuracy": statistics.fmean(right[i] for i in members),
            "shuffled": statistics.fmean(right_shuffled[i] for i in members),
            "n": len(members),
        }
    shown = random.Random(SEED).sample(range(len(questions)), min(SHOWN, len(questions)))
    examples = [
        {
            "kind": "easy_vqa",
            "image": str((folder / names[i]).resolve()),
            "prompt": questions[i]["question"],
            "output": own[i],
            "truth": questions[i]["answer"],
        }
        for i in shown
    ]
    return {
        "accuracy": statistics.fmean(right),
        "accuracy_interval": wilson(sum(right), len(right)),
        "shuffled": statistics.fmean(right_shuffled),
        "shuffled_interval": wilson(sum(right_shuffled), len(right)),
        "question_only_reported": 0.67,
        "n": len(right),
        "by_kind": by_kind,
    }, examples


def describe_things(kosmos: Generator, folder: Path) -> list[dict]:
    """What the model says about things chosen at random, in a drawing of every kind, and to questions about them."""
    kinds = ("colors", "lines", "artist")
    drawings = {kind: {line["thing"]: line for line in read_json_lines(folder / f"{kind}.jsonl")} for kind in kinds}
    other_colors = {line["thing"]: line for line in reversed(read_json_lines(folder / "colors.jsonl"))}
    names = list(drawings["lines"])
    chosen = random.Random(SEED).sample(names, min(SHOWN, len(names)))
    shown = []  # kind, line, prompt, truth
    for kind, prompt in zip(kinds, (CAPTION_PROMPT, WHAT_IS_THIS, WHAT_IS_THIS), strict=True):
        shown += [(kind, line, prompt, line["name"]) for line in (drawings[kind][thing] for thing in chosen)]
    for number, thing in enumerate(chosen):
        asked = other_colors[thing]["questions"][1 + number % 2]  # "is this …?" and "what color …?"
        shown.append(("questions", other_colors[thing], question_prompt(asked["question"]), asked["answer"]))
    examples = []
    for kind, line, prompt, truth in shown:
        output = kosmos.generate(f"<image> {prompt}", [folder / line["image"]], max_new_tokens=16, stop=".")
        image = str((folder / line["image"]).resolve())
        examples.append({"kind": kind, "image": image, "prompt": prompt, "output": output, "truth": truth})
    return examples


def evaluate_benchmarks(kosmos: Generator, checkpoint: Path, data: Path, out: Path) -> dict:
    """Benchmark → title, metric, number of items, and for each way of benchmarks.measure the headline and interval."""
    return {
        name: {
            "title": results["own"].title,
            "metric": results["own"].headline,
            "n": results["own"].items,
            **{way: [result.metrics[result.headline], *result.interval] for way, result in results.items()},
        }
        for name, results in benchmarks.measure(kosmos, checkpoint, data, out).items()
    }


def training_facts(kosmos: Generator, log: Path) -> dict:
    """Updates and seconds of the training, from its log, and the model's parameters."""
    text = log.read_text("utf-8")
    parameters = list(kosmos.model.parameters())
    return {
        "updates": int(re.findall(r'"num_updates": "(\d+)"', text)[-1]),
        "seconds": float(re.findall(r"done training in ([\d.]+) seconds", text)[-1]),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


def machine() -> dict:
    cpu = next(
        (line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")), platform.machine()
    )
    packages = ("torch", "torchscale", "numpy")
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
    return {"cpu": cpu, "cores": torch.get_num_threads(), "versions": versions}


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that prepare.py wrote")
    parser.add_argument(
        "results", type=Path, help="folder with train.log and the checkpoints; results.json is written there"
    )
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)  # importing fairseq set it to DEBUG
    checkpoint = args.results / "checkpoints" / "checkpoint_last.pt"
    kosmos = load(checkpoint, data=str(args.data / "data.yaml"))
    easy_vqa, questions = evaluate_easy_vqa(kosmos, args.data / "test")
    results = {
        "easy_vqa": easy_vqa,
        "benchmarks": evaluate_benchmarks(kosmos, checkpoint, args.data, args.results / "evaluation"),
        "examples": describe_things(kosmos, args.data / "test") + questions,
        "train": training_facts(kosmos, args.results / "train.log"),
        "machine": machine(),
    }
    (args.results / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
