"""Claims of the README and the pages: links lead somewhere, the data YAML and the training command are valid."""

import re
from pathlib import Path

import pytest

from kosmos_plugin.data.config import read_data_config
from kosmos_plugin.planning.command import read_training_command

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(path for folder in (".", "docs", "docs/api", "examples/*") for path in ROOT.glob(f"{folder}/*.md"))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_data_yaml_of_the_readme_is_valid(tmp_path):
    (tmp_path / "data.yaml").write_text(re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])
    config = read_data_config(tmp_path / "data.yaml", files_must_exist=False)
    assert {stream.kind: stream.sequences_per_update for stream in config.streams} == {
        "text": 256,
        "captions": 6144,
        "interleaved": 128,
    }


def test_the_training_command_of_the_readme_is_valid(tmp_path):
    command = re.search(r"```bash\n(fairseq-train .*?)```", README, re.DOTALL)[1]
    (tmp_path / "train.sh").write_text(command)
    config = read_training_command(str(tmp_path / "train.sh")).config
    assert config.model._name == "kosmos_1" and config.optimizer._name == "fused_adamw"
    assert (config.optimization.max_update, config.optimization.update_freq) == (300_000, [16])
