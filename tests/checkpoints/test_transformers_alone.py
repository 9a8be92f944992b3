"""An exported folder in new environments with the oldest and the newest supported transformers, and nothing of ours."""

import importlib.metadata
import random
import re
import subprocess
import venv
from pathlib import Path

import pytest
import torch

from kosmos_plugin.generation.generator import load
from tests import tiny
from tests.checkpoints import exported

VERSIONS = ["4.57.1", ""]  # the newest: whatever pip finds
SCRIPT = Path(__file__).with_name("alone.py")


def link_torch(site_packages: Path) -> None:
    """Link this environment's torch, and what it requires, into another: a copy takes gigabytes."""
    found: set[str] = set()

    def visit(name: str) -> None:
        name = re.sub(r"[-_.]+", "-", name).lower()
        if name in found:
            return
        found.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            return
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "bin", "__pycache__"}:
            if not (site_packages / top).exists():
                (site_packages / top).symlink_to(distribution.locate_file(top))
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement:
                visit(re.match(r"[\w.-]+", requirement)[0])

    visit("torch")


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: version or "newest")
def python(request, tmp_path_factory) -> Path:
    """The interpreter of a new environment: transformers, torch and Pillow."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    wanted = f"transformers=={request.param}" if request.param else "transformers"
    subprocess.run([interpreter, "-m", "pip", "install", "-q", wanted, "pillow"], check=True, timeout=900)
    link_torch(next((folder / "lib").glob("python*/site-packages")))
    return interpreter


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["clip", "efficientnet"])
def test_the_same_answers_without_this_package(python, tmp_path, variant):
    checkpoint, folder = exported.write_folder(tmp_path, variant)
    kosmos = load(checkpoint)
    prompts = []
    for number in range(6):
        rng = random.Random(number)
        images = []
        for image in range(number % 3 if number else 1):
            images.append(str(tmp_path / f"{number}-{image}.png"))
            Path(images[-1]).write_bytes(tiny.png(rng, 50))
        text = "<image> the " * len(images) + tiny.sentence(rng)
        sample = kosmos.prompt(text, images)
        tokens = torch.from_numpy(sample.tokens)[None]
        config = kosmos.model.config
        pixels = [tiny.decode_image(Path(path).read_bytes(), config.image_size, config.image_fit) for path in images]
        slots = torch.from_numpy(sample.image_slots)[None]
        with torch.no_grad():
            logits = kosmos.model(tokens, torch.ones_like(tokens), slots, torch.stack(pixels) if pixels else None)[0][0]
        greedy, beam = (kosmos.generate(text, images, max_new_tokens=24, num_beams=beams) for beams in (1, 5))
        prompts.append(
            {
                "text": text,
                "images": images,
                "ids": sample.tokens.tolist(),
                "logits": logits,
                "greedy": greedy,
                "beam": beam,
            }
        )
    torch.save({"prompts": prompts}, tmp_path / "answers.pt")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, SCRIPT, folder, tmp_path / "answers.pt"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "6 prompts" in done.stdout
