"""The runner of the benchmarks: its list, its errors, and how results are written."""

import importlib
import json
import re

import pytest

from tests import tiny
from tests.benchmarks import BENCHMARKS, LONG, ON_A_GPU
from tests.benchmarks.__main__ import main, run_all, run_one
from tests.benchmarks.loader import seconds_to_first_batch
from tests.benchmarks.result import Result, Spread


def test_lists_every_benchmark(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--list"])
    main()
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [*BENCHMARKS, *LONG]
    for name in listed:
        assert callable(importlib.import_module(f"tests.benchmarks.{name}").run)


def test_an_unknown_name_is_one_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["benchmarks", "warp_drive", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as status:
        main()
    assert status.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "warp_drive" in last and all(name in last for name in BENCHMARKS | LONG)
    assert not (tmp_path / "out").exists()


def test_long_benchmarks_run_only_if_named(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # `main` sets it; monkeypatch restores it
    monkeypatch.setattr("tests.benchmarks.__main__.run_all", lambda names, out, seconds: ran.append(names))
    for names, expected in (([], list(BENCHMARKS)), ([next(iter(LONG))], [next(iter(LONG))])):
        monkeypatch.setattr("sys.argv", ["benchmarks", *names, "--out", str(tmp_path)])
        main()
        assert ran.pop() == expected


def test_on_a_gpu_others_run_in_ten_minutes(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("tests.benchmarks.__main__.run_all", lambda *arguments: ran.append(arguments))
    monkeypatch.setattr("sys.argv", ["benchmarks", "--out", str(tmp_path)])
    main()
    assert ran == [(list(ON_A_GPU), tmp_path, ON_A_GPU)]
    assert set(ON_A_GPU) <= {*BENCHMARKS, *LONG} and sum(ON_A_GPU.values()) <= 600


def test_a_benchmark_that_takes_too_long_is_stopped(tmp_path):
    with pytest.raises(TimeoutError, match="stopped after 0 s"):
        run_one("full_size_gpu", tmp_path, 0.001)


def test_results_of_a_gpu_have_a_file_of_their_own(monkeypatch, tmp_path, capsys):
    table = Result("Times", ["what"], [["a"]], more=[Result("Parts", ["part"], [["b"]])])
    monkeypatch.setattr("tests.benchmarks.__main__.run_one", lambda name, out, seconds: table)
    monkeypatch.setattr("tests.benchmarks.__main__.machine", lambda: {"cores": 16, "gpu": "NVIDIA H100"})
    assert run_all(["generation"], tmp_path) == []
    written = (tmp_path / "results-gpu.md").read_text()
    assert written.startswith("# Benchmarks on NVIDIA H100\n") and "## Times" in written and "## Parts" in written
    assert json.loads((tmp_path / "results-gpu.json").read_text())["benchmarks"]["generation"]["more"][0]["rows"] == [
        ["b"]
    ]


def test_a_result_as_markdown_and_as_json():
    rows = [["a", 1234, 0.123456], ["b", Spread((3.0, 1.0, 2.0)), float("nan")]]
    result = Result("Times", ["what", "seconds", "share"], rows, ["A note."], ["plot.png"])
    assert result.markdown().splitlines() == [
        "## Times",
        "",
        "| what | seconds | share |",
        "| --- | --- | --- |",
        "| a | 1,234 | 0.123 |",
        "| b | 2.00 (1.00 to 3.00) | nan |",
        "",
        "- A note.",
        "",
        "![Times](plot.png)",
    ]
    written = json.loads(json.dumps(result.json(), allow_nan=False))
    assert written["rows"] == [["a", 1234, 0.123456], ["b", [3.0, 1.0, 2.0], "nan"]]


def test_the_loader_starts_anywhere(tmp_path):
    path = tiny.write_data(tmp_path)
    # Rows for all ranks.
    path.write_text(re.sub(r"sequences_per_update: \d+", "sequences_per_update: 2000", path.read_text()))
    assert all(seconds_to_first_batch(path, update) > 0 for update in (0, 1000))
