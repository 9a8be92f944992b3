"""kosmos-evaluate: every benchmark from one command, and errors of users."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_cli_ext.evaluate import cli_main
from kosmos_plugin.checkpoints import safetensors_file
from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.evaluation.requests import distinct_images
from kosmos_plugin.evaluation.results import read_results
from kosmos_plugin.tensor_files import read_safetensors
from tests import tiny
from tests.evaluation.releases import write_release


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
        assert not result.submission or (folder / result.submission).stat().st_size
    for name in ("report.html", "report.md", "report.png"):
        assert (out / name).stat().st_size > 1000


def test_a_folder_is_its_checkpoint(checkpoint, releases, tmp_path, capsys):
    shutil.copy(checkpoint, tmp_path / "trained.pt")
    shutil.copytree(releases / "superglue", tmp_path / "data" / "superglue")
    options = ["--benchmark", "boolq", "--data", tmp_path / "data", "--limit", 3, "--shots", 0]
    for number, path in enumerate((tmp_path, tmp_path / "trained.pt")):
        status, _, error = evaluate(capsys, "--path", path, "--out", tmp_path / f"out{number}", *options)
        assert status == 0, error
        assert f"Checkpoint: {tmp_path / 'trained.pt'}\n" in (tmp_path / f"out{number}" / "report.md").read_text()
    assert read_results(tmp_path / "out0") == read_results(tmp_path / "out1")


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
        ("--path {checkpoint} --benchmark coco --data {releases} --device gpu", "The device 'gpu' cannot be used"),
        ("--path {checkpoint} --benchmark coco --data {releases} --dtype half", "--dtype must be one of float32,"),
        ("--path {checkpoint} --benchmark coco,pets.jsonl", "Give --data"),
        ("--path {checkpoint} --benchmark pets.jsonl", "pets.jsonl does not exist."),
        ("--path {checkpoint} --benchmark pets.py:Pets", "pets.py does not exist."),
        ("--path {checkpoint} --benchmark coco,pets.json --data {releases}", "your own: FILE.jsonl or FILE.py:CLASS."),
        ("--compare nowhere elsewhere", "nowhere"),
        ("--compare nowhere,nowhere elsewhere", "nowhere has no results.json"),
    ],
)
def test_user_errors_are_one_line(checkpoint, releases, capsys, tmp_path, arguments, message):
    words = arguments.format(checkpoint=checkpoint, releases=releases).split()
    status, _, error = evaluate(capsys, *words, *([] if "--compare" in arguments else ["--out", tmp_path / "out"]))
    assert status == 2
    [line] = [line for line in error.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_benchmarks_of_the_user_and_their_comparison(checkpoint, tmp_path, capsys):
    """From a file of JSON lines alone, without --data; two results as the seeds of one side, with a page."""
    path = tmp_path / "pets.jsonl"
    lines = ({"prompt": f"A pet {n} is", "candidates": ["a dog", "a cat"], "answer": "a dog"} for n in range(6))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for out in ("one", "two"):
        options = ("--path", checkpoint, "--benchmark", path, "--out", tmp_path / out)
        status, table, error = evaluate(capsys, *options)
        assert status == 0, error
        assert "\npets\n" in table
    [result] = read_results(tmp_path / "one")
    assert (result.benchmark, result.title, result.section, result.items) == ("pets", "pets", "", 6)
    sides = (f"{tmp_path}/one,{tmp_path}/two", tmp_path / "one")
    status, table, error = evaluate(capsys, "--compare", *sides, "--out", tmp_path / "compared")
    assert status == 0 and str(tmp_path / "compared/comparison.html") in error
    assert "Other benchmarks\n  pets " in table and "+0.0 (+0.0, +0.0)" in table
    assert {file.name for file in (tmp_path / "compared").iterdir()} == {"comparison.html", "comparison.md"}


def all_but(releases: Path, folder: Path, *missing: str) -> Path:
    """A folder with links to all releases but some."""
    folder.mkdir()
    for release in os.listdir(releases):
        if release not in missing:
            (folder / release).symlink_to(releases / release)
    return folder


def test_all_leaves_out_releases_that_are_missing(checkpoint, releases, tmp_path, capsys):
    """The others are run, and the last lines say what was not, why, and where its files belong."""
    available = ("boolq", "cb", "copa", "relative_size")
    missing = {benchmark_class(name).release for name in BENCHMARKS if name not in available}
    data = all_but(releases, tmp_path / "data", *missing)
    (data / "piqa").symlink_to(releases / "piqa/train.jsonl")
    options = ("--benchmark", "all", "--data", data, "--out", tmp_path / "out", "--limit", 2, "--shots", "0,1")
    status, table, error = evaluate(capsys, "--path", checkpoint, *options)
    assert status == 0, error
    results = {(result.benchmark, result.shots) for result in read_results(tmp_path / "out")}
    assert results == {("boolq", 0), ("boolq", 1), ("cb", 0), ("cb", 1), ("copa", 0), ("copa", 1), ("relative_size", 0)}
    assert "BoolQ" in table and "RelativeSize" in table and (tmp_path / "out/report.html").is_file()
    not_run = error[error.index("Not run:\n") :].splitlines()[1:]
    for name in BENCHMARKS:
        assert any(line.startswith(f"{name}: ") for line in not_run) == (name not in available)
    assert "imagenet: val is not in " + str(data / "imagenet") in error
    assert "relative_size has no demonstrations: evaluate it with --shots 0." in not_run
    assert any(line.startswith("piqa: valid.jsonl, valid-labels.lst are not in") for line in not_run)


def test_missing_files_of_benchmarks_that_were_named_are_an_error(checkpoint, releases, tmp_path, capsys):
    """The message names those of all, and the benchmarks that could run."""
    data = all_but(releases, tmp_path / "data", "coco", "piqa")
    names = "coco,boolq,piqa, copa"
    status, _, error = evaluate(capsys, "--path", checkpoint, "--benchmark", names, "--data", data)
    assert status == 2
    assert "coco: dataset_coco.json" in error and "piqa: " in error and str(data / "piqa") in error
    assert error.rstrip().endswith("All files exist for --benchmark boolq,copa")


def test_a_data_folder_without_releases_is_an_error(checkpoint, tmp_path, capsys):
    status, _, error = evaluate(capsys, "--path", checkpoint, "--benchmark", "all", "--data", tmp_path)
    assert (
        status == 2
        and "Nothing can be evaluated." in error
        and "\ncoco: dataset_coco.json, val2014 are not in" in error
    )


@pytest.fixture(scope="module")
def text_only(data, tmp_path_factory):
    """The paper's text-only baseline after one update, with a context of 512 tokens."""
    options = ("--arch", "kosmos_1_lm", "--vision-encoder", "none", "--max-update", 1, "--tokens-per-sample", 512)
    text = tiny.text_data(data, tmp_path_factory.mktemp("text"))
    return tiny.train(text, tmp_path_factory.mktemp("text_only"), *options, "--no-epoch-checkpoints")


@pytest.mark.parametrize("names", ["all", "coco,boolq,websrc_text,websrc"])
def test_a_text_only_model_is_not_asked_about_images(text_only, releases, tmp_path, capsys, names):
    """Benchmarks with images need not even be there."""
    data = all_but(releases, tmp_path / "data", "coco", "vqav2")
    options = ("--benchmark", names, "--data", data, "--out", tmp_path / "out", "--limit", 2, "--shots", 0)
    status, table, error = evaluate(capsys, "--path", text_only, *options)
    assert status == 0, error
    chosen = list(BENCHMARKS) if names == "all" else names.split(",")
    with_images = {name for name in chosen if benchmark_class(name).has_images}
    assert {result.benchmark for result in read_results(tmp_path / "out")} == set(chosen) - with_images
    assert not {"boolq", "websrc_text"} & with_images and {"coco", "websrc"} <= with_images
    assert "BoolQ" in table
    for name in with_images:
        assert f"\n{name}: it has images, and the model reads only text." in error


def test_a_text_only_model_with_images_only_is_an_error(text_only, releases, tmp_path, capsys):
    options = ("--benchmark", "coco,imagenet", "--data", releases, "--out", tmp_path / "out")
    status, _, error = evaluate(capsys, "--path", text_only, *options)
    assert status == 2 and not (tmp_path / "out").exists()
    assert "Nothing can be evaluated.\ncoco: it has images" in error


def test_the_checkpoint_is_read_once(text_only, releases, tmp_path, capsys, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    convert(text_only, path, "safetensors")
    read = []

    def counting(path: Path):
        read.append(path)
        return read_safetensors(path)

    monkeypatch.setattr(safetensors_file, "read_safetensors", counting)
    options = ("--benchmark", "boolq", "--data", releases, "--out", tmp_path / "out", "--limit", 1, "--shots", 0)
    status, _, error = evaluate(capsys, "--path", path, *options)
    assert status == 0, error
    assert read == [path]


def test_has_images_is_what_the_prompts_have(releases):
    for kind in BENCHMARKS.values():
        benchmark = kind(releases / kind.release)
        assert bool(distinct_images(benchmark.request(benchmark.items()[0], []))) == kind.has_images, kind.name


def test_a_broken_release_does_not_keep_the_others_from_being_run(checkpoint, releases, tmp_path, capsys):
    """One is broken in its file, one in an image that the model is only asked about in the end."""
    data = all_but(releases, tmp_path / "data", "piqa", "rendered_sst2")
    for release in ("piqa", "rendered_sst2"):
        write_release(data, release)
    (data / "piqa/valid-labels.lst").write_text("1\n")
    (data / "rendered_sst2/test/positive/1.png").write_bytes(b"no image")
    options = ("--data", data, "--out", tmp_path / "out", "--limit", 6, "--shots", 0)
    status, table, error = evaluate(
        capsys, "--path", checkpoint, "--benchmark", "piqa,boolq,rendered_sst2,copa", *options
    )
    assert status == 2
    assert {result.benchmark for result in read_results(tmp_path / "out")} == {"boolq", "copa"}
    assert "BoolQ" in table and "COPA" in table and (tmp_path / "out/report.html").is_file()
    assert "error: piqa: " in error and "valid-labels.lst has 1 labels" in error
    assert "\nrendered_sst2: " in error and "positive/1.png" in error


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
