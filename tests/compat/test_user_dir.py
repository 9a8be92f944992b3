"""--user-dir with a plugin that is already imported, and in spawned processes."""

import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from fairseq import utils

import kosmos_plugin

PLUGIN = Path(kosmos_plugin.__path__[0])


def import_user_dir(path: Path | str | None) -> None:
    utils.import_user_module(Namespace(user_dir=path and str(path)))


@pytest.mark.parametrize("times", [1, 2])
def test_accepts_the_imported_directory(times):
    for _ in range(times):
        import_user_dir(PLUGIN)
    import_user_dir(f"{PLUGIN}/")


def test_accepts_a_link_to_it(tmp_path):
    (tmp_path / "kosmos_plugin").symlink_to(PLUGIN)
    import_user_dir(tmp_path / "kosmos_plugin")


def test_rejects_another_copy_and_names_the_imported_one(tmp_path):
    (tmp_path / "kosmos_plugin").mkdir()
    with pytest.raises(ImportError) as error:
        import_user_dir(tmp_path / "kosmos_plugin")
    assert str(tmp_path / "kosmos_plugin") in str(error.value)
    assert f"already imported, from {PLUGIN}" in str(error.value)


def test_leaves_other_plugins_to_fairseq(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "another_fairseq_plugin").mkdir()
    (tmp_path / "another_fairseq_plugin" / "__init__.py").write_text("imported = True\n")
    import_user_dir(None)
    import_user_dir(tmp_path / "another_fairseq_plugin")
    assert sys.modules.pop("another_fairseq_plugin").imported
    with pytest.raises(FileNotFoundError):
        import_user_dir(tmp_path / "nowhere" / "kosmos_plugin")


@pytest.mark.slow
def test_spawned_workers_import_the_same_copy(run_python, tmp_path):
    """Needs no patch: a spawned process has the path of its parent."""
    copy = tmp_path / "copy" / "kosmos_plugin"
    shutil.copytree(PLUGIN, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "probe.py").write_text(
        "import kosmos_plugin\n"
        "from fairseq.tasks import TASK_REGISTRY\n"
        "class Probe(list):\n"
        "    def __getitem__(self, index):\n"
        "        return kosmos_plugin.__file__, 'kosmos_multimodal' in TASK_REGISTRY\n"
    )
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from argparse import Namespace\n"
        "from fairseq import utils\n"
        "from torch.utils.data import DataLoader\n"
        "if __name__ == '__main__':\n"
        "    utils.import_user_module(Namespace(user_dir=sys.argv[2]))\n"
        "    from kosmos_plugin.probe import Probe\n"
        "    print(list(DataLoader(Probe([0]), batch_size=None, num_workers=1, multiprocessing_context='spawn')))\n"
    )
    # no PYTHONPATH: the copy is found only by --user-dir
    output = run_python(str(program), "--user-dir", str(copy), python_path="")
    assert str([[str(copy / "__init__.py"), True]]) in output
