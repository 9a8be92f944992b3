"""The example in the documentation of the benchmark interface works, as a file of a user."""

import json
import textwrap

from kosmos_plugin.evaluation import benchmark as module
from kosmos_plugin.evaluation.ranks import Ranks
from kosmos_plugin.evaluation.run import Run, evaluate
from kosmos_plugin.evaluation.user_benchmarks import user_benchmark
from tests.evaluation.stand_in import Knowing


def test_the_documented_example_is_a_benchmark(tmp_path):
    lines = module.__doc__.splitlines()
    example = [line for line in lines if line.startswith("    ") or not line]
    (tmp_path / "riddles.py").write_text(textwrap.dedent("\n".join(example)))
    riddles = [{"id": str(number), "text": f"What is {number}?", "answer": f"it is {number}"} for number in range(3)]
    folder = tmp_path / "riddles"
    folder.mkdir()
    (folder / "riddles.jsonl").write_text("".join(f"{json.dumps(riddle)}\n" for riddle in riddles))
    benchmark = user_benchmark(f"{tmp_path}/riddles.py:Riddles", data=None, split=None)
    benchmark.check_files(few_shot=False)
    run = Run(benchmark, 0, "a stand-in", "")
    result = evaluate(run, Knowing(run), tmp_path / "out", batch_size=2, ranks=Ranks())
    assert (result.title, result.items, result.metrics) == ("Riddles", 3, {"accuracy": 100})
    page = (tmp_path / "out" / result.folder / "page.html").read_text("utf-8")
    assert "Riddle: What is 2? Answer:" in page
