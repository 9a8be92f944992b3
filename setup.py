"""Installs the hook that registers the plugin with fairseq; everything else about the package is in pyproject.toml.

fairseq imports every module in its `tasks/` folder, so one small module installed there registers the plugin at
`import fairseq`, and `--user-dir` is not needed. A regular install has it as the module
`fairseq.tasks.kosmos_multimodal_plugin`; an editable install copies no modules, so there it is a data file.
"""

import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.editable_wheel import editable_wheel

HOOK_MODULE = "fairseq.tasks.kosmos_multimodal_plugin"
HOOK_FILE = "fairseq_hook/kosmos_multimodal_plugin.py"


def fairseq_is_an_editable_checkout() -> bool:
    """Whether fairseq itself is installed editable, by an import finder of setuptools.

    Python consults such a finder only after site-packages: a `fairseq/tasks` folder there would hide the checkout, and
    `import fairseq` would find an empty package. Users of a checkout of fairseq use `--user-dir`.
    """
    site_packages = Path(sysconfig.get_path("purelib"))
    return any(site_packages.glob("__editable___*fairseq*_finder.py"))


class EditableWheelWithHook(editable_wheel):
    """`pip install -e .` that puts the hook where fairseq looks for tasks."""

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
    py_modules=[] if fairseq_is_an_editable_checkout() else [HOOK_MODULE],
    package_dir={"fairseq.tasks": "fairseq_hook"},
    cmdclass={"editable_wheel": EditableWheelWithHook},
)
