"""Whatever is installed as apex, the model is the same: PyPI's package, or NVIDIA's without its CUDA part."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import tiny

REPOSITORY = Path(__file__).parents[2]

# NVIDIA's: FusedLayerNorm is there, and needs the CUDA part when one is made (apex/normalization/fused_layer_norm.py).
NVIDIAS = {
    "apex/__init__.py": "from . import normalization, optimizers",
    "apex/normalization/__init__.py": """
import importlib, torch
class FusedLayerNorm(torch.nn.Module):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, memory_efficient=False):
        super().__init__()
        importlib.import_module("fused_layer_norm_cuda")
""",
    "apex/optimizers/__init__.py": "import torch\nclass FusedAdam(torch.optim.Optimizer): pass",
    "apex/multi_tensor_apply/__init__.py": "class multi_tensor_applier: available = False",
}
BUILT_FOR_ANOTHER_TORCH = "raise ImportError('undefined symbol: _ZN3c104cuda20CUDACachingAllocator9allocatorE')"
PACKAGES = {
    "none": {},
    "PyPI's": {"apex/__init__.py": "import apex.lib", "apex/lib/__init__.py": ""},
    # Its import with a current pyramid.
    "PyPI's, which fails": {
        "apex/__init__.py": "raise ImportError('cannot import name UnencryptedCookieSessionFactoryConfig')"
    },
    "NVIDIA's in Python alone": NVIDIAS,
    "NVIDIA's for another torch": NVIDIAS | {"fused_layer_norm_cuda.py": BUILT_FOR_ANOTHER_TORCH}
    | {"amp_C.py": BUILT_FOR_ANOTHER_TORCH},
}  # fmt: skip

# Two updates, and loading its own checkpoint and the other's for generation, in a process that has the package.
PROGRAM = """
import sys, torch, kosmos_plugin
kosmos_plugin.register()
from pathlib import Path
from tests import tiny
data, folder, expected = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
options = ("--cpu", "--num-workers", "0", "--disable-validation", "--clip-norm", "1", "--max-update")
path = tiny.train(data, folder, *options, "2")
from kosmos_plugin import load
generator = load(str(path))
modules = generator.model.decoder.named_modules()
norms = {type(module) for name, module in modules if name.endswith(("layer_norm", "_ln", "layernorm"))}
assert norms == {torch.nn.LayerNorm}, norms
load(expected)  # of a training without the package
import apex_is_there
"""


def run(package: dict[str, str], folder: Path, data: Path, expected: Path) -> Path:
    libraries = folder / "libraries"
    for name, text in (package | {"apex_is_there.py": ""}).items():
        (libraries / name).parent.mkdir(parents=True, exist_ok=True)
        (libraries / name).write_text(text)
    environment = {
        **os.environ, "PYTHONPATH": f"{libraries}:{REPOSITORY}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(data), str(folder), str(expected)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def without(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("without")
    options = ("--cpu", "--num-workers", "0", "--disable-validation", "--clip-norm", "1", "--max-update")
    return tiny.train(data, folder, *options, "2")


@pytest.mark.parametrize(
    "package", [one if one == "PyPI's" else pytest.param(one, marks=pytest.mark.slow) for one in PACKAGES]
)
def test_training_checkpoints_and_generation_are_the_same(package, data, tmp_path, without):
    path = run(PACKAGES[package], tmp_path, data, without)
    one, other = (torch.load(each, weights_only=True)["model"] for each in (path, without))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["apex", os.environ.get("NVIDIA_APEX", "git+https://github.com/NVIDIA/apex")])
def test_the_real_packages(source, data, tmp_path, without):
    """PyPI's, and NVIDIA's built without CUDA from its repository, or from the folder NVIDIA_APEX."""
    libraries = tmp_path / "libraries"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(libraries)]
    subprocess.run([*pip, "wheel"], check=True, timeout=120)
    done = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", source],
        env={**os.environ, "PYTHONPATH": str(libraries)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        pytest.skip(f"pip install {source}: {done.stderr.strip().splitlines()[-1]}")
    assert (libraries / "apex" / "normalization").is_dir() == (source != "apex")
    path = run({}, tmp_path, data, without)
    one, other = (torch.load(each, weights_only=True)["model"] for each in (path, without))
    assert all(torch.equal(one[name], other[name]) for name in one)
