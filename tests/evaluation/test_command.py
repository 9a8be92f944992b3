"""kosmos-evaluate: every benchmark from one command, and errors of users."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_cli_ext.evaluate import cli_main
from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.evaluation.results import read_results


def evaluate(capsys, *arguments) -> tuple[int, str, str]:
    """Run the command; return its exit status, standard output and standard error."""
    try:
        cli_main([str(argument) for argument in arguments])
        status = 0
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.mark.parametrize("options", [("--shots", 0), pytest.param((), marks=pytest.mark.slow)])
def test_all_benchmarks_run_from_one_command(checkpoint, releases, tmp_path, capsys, options):
    """Without demonstrations, and with the paper's numbers; items that do not fit in 512 tokens are reported."""
    out = tmp_path / "out"
    status, table, error = evaluate(
        capsys, "--path", checkpoint, "--benchmark", "all", "--data", releases, "--out", out, "--limit", 3, *options
    )
    assert status == 0, error
    results = {(result.benchmark, result.shots): result for result in read_results(out)}
    shots_of = {name: (0,) if options else benchmark_class(name).shots for name in BENCHMARKS}
    assert set(results) == {(name, shots) for name, shots_of_one in shots_of.items() for shots in shots_of_one}
    for result in results.values():
        assert result.title in table
        folder = out / result.folder
        lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        assert len(lines) == result.items == 3
        assert result.problems == sum(bool(line["problem"]) for line in lines)
        assert all(0 <= value <= 1000 for value in result.metrics.values())
        assert (folder / "page.html").stat().st_size > 1000
        assert not result.submission or json.loads((folder / result.submission).read_text())
    for name in ("report.html", "report.md", "report.png"):
        assert (out / name).stat().st_size > 1000


def test_the_list_names_every_benchmark_and_where_its_files_belong(capsys):
    status, listed, _ = evaluate(capsys, "--list")
    assert status == 0
    for name in BENCHMARKS:
        assert f"\n{name} " in f"\n{listed}" and f"FOLDER/{benchmark_class(name).release}/" in listed


@pytest.mark.parametrize("option", ["--list", "--help"])
def test_list_and_help_import_neither_torch_nor_fairseq(option):
    code = (
        "import sys\nfrom fairseq_cli_ext.evaluate import cli_main\n"
        f"try:\n    cli_main([{option!r}])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'fairseq', 'jinja2', 'PIL'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("imagenet_constrained" if option == "--list" else "default: 16") in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--benchmark coco", "Give --path"),
        ("--path {checkpoint} --data {releases}", "Give --benchmark"),
        ("--path {checkpoint} --benchmark coco", "Give --data"),
        ("--path nowhere.pt --benchmark coco --data {releases}", "nowhere.pt does not exist"),
        (
            "--path {checkpoint} --benchmark cocoa --data {releases}",
            "no benchmark 'cocoa'. Did you mean 'coco'? The",
        ),
        ("--path {checkpoint} --benchmark coco --data {releases} --shots two", "--shots must be numbers"),
        ("--path {checkpoint} --benchmark coco --data {releases} --shots=-1", "--shots must be numbers"),
        ("--path {checkpoint} --benchmark imagenet --data {releases} --shots 2", "imagenet has no demonstrations"),
        (
            "--path {checkpoint} --benchmark coco --data {releases} --split tset",
            "not 'tset'. Did you mean 'test'?",
        ),
        (
            "--path {checkpoint} --benchmark coco,piqa --data {releases} --split test",
            "--split needs a single",
        ),
        ("--path {checkpoint} --benchmark coco --data {releases} --batch-size 0", "--batch-size"),
        ("--path {checkpoint} --benchmark coco --data {releases} --limit 0", "--limit"),
        ("--compare nowhere elsewhere", "nowhere"),
    ],
)
def test_user_errors_are_one_line(checkpoint, releases, capsys, tmp_path, arguments, message):
    words = arguments.format(checkpoint=checkpoint, releases=releases).split()
    status, _, error = evaluate(capsys, *words, *([] if "--compare" in arguments else ["--out", tmp_path / "out"]))
    assert status == 2
    [line] = [line for line in error.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_missing_files_of_all_benchmarks_are_named_together(checkpoint, releases, tmp_path, capsys):
    """The message also names the benchmarks that could run. Here all releases but two are linked."""
    data = tmp_path / "data"
    data.mkdir()
    for release in os.listdir(releases):
        if release not in ("coco", "piqa"):
            (data / release).symlink_to(releases / release)
    status, _, error = evaluate(capsys, "--path", checkpoint, "--benchmark", "all", "--data", data)
    assert status == 2
    assert "coco: dataset_coco.json" in error and "piqa: " in error and str(data / "piqa") in error
    possible = ",".join(name for name in BENCHMARKS if name not in ("coco", "piqa"))
    assert error.rstrip().endswith(f"--benchmark {possible}")


def test_results_of_several_commands_are_kept_together(checkpoint, releases, tmp_path, capsys):
    common = ("--path", checkpoint, "--data", releases, "--out", tmp_path, "--limit", 2)
    for benchmark, shots in (("boolq", "0"), ("copa", "0,1"), ("boolq", "0")):
        status, table, _ = evaluate(capsys, *common, "--benchmark", benchmark, "--shots", shots)
        assert status == 0
    assert {(result.benchmark, result.shots) for result in read_results(tmp_path)} == {
        ("boolq", 0), ("copa", 0), ("copa", 1)
    }  # fmt: skip
    assert "BoolQ" in table and "COPA" in table


def test_two_checkpoints_are_compared(checkpoint, data, releases, tmp_path, capsys):
    other = tmp_path / "other.pt"
    shutil.copy(checkpoint, other)
    for path, name in ((checkpoint, "one"), (other, "two")):
        options = ("--data", releases, "--out", tmp_path / name, "--limit", 3, "--shots", 0)
        assert evaluate(capsys, "--path", path, "--benchmark", "boolq,relative_size", *options)[0] == 0
    status, table, error = evaluate(capsys, "--compare", tmp_path / "one", tmp_path / "two")
    assert status == 0, error
    assert "BoolQ" in table


def test_a_broken_checkpoint_is_one_line(releases, tmp_path, capsys):
    broken = Path(tmp_path / "broken.pt")
    broken.write_bytes(b"no checkpoint")
    status, _, error = evaluate(
        capsys, "--path", broken, "--benchmark", "boolq", "--data", releases, "--out", tmp_path / "out"
    )
    assert status == 2 and "broken.pt is not a checkpoint" in error
