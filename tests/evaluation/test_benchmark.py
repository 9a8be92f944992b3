"""The example in the documentation of the benchmark interface works."""

import json
import textwrap

from kosmos_plugin.evaluation import benchmark as module
from kosmos_plugin.evaluation import requests
from kosmos_plugin.evaluation.files import read_json_lines
from kosmos_plugin.evaluation.metrics.accuracy import accuracy
from kosmos_plugin.evaluation.ranks import Ranks
from kosmos_plugin.evaluation.run import Run, evaluate
from tests.evaluation.stand_in import Knowing


def test_the_documented_example_is_a_benchmark(tmp_path):
    before, _, rest = module.__doc__.partition("    @dataclass")
    example, _, after = ("    @dataclass" + rest).partition("\nIts tests")
    assert before and after
    names = {**vars(module), **vars(requests), "read_json_lines": read_json_lines, "accuracy": accuracy}
    exec(textwrap.dedent(example), names)
    riddles = [{"id": str(number), "text": f"What is {number}?", "answer": f"it is {number}"} for number in range(3)]
    folder = tmp_path / "riddles"
    folder.mkdir()
    (folder / "riddles.jsonl").write_text("".join(f"{json.dumps(riddle)}\n" for riddle in riddles))
    benchmark = names["Riddles"](folder)
    benchmark.check_files(few_shot=False)
    run = Run(benchmark, 0, "a stand-in", "")
    result = evaluate(run, Knowing(run), tmp_path / "out", batch_size=2, ranks=Ranks())
    assert (result.title, result.items, result.metrics) == ("Riddles", 3, {"accuracy": 100})
    page = (tmp_path / "out" / result.folder / "page.html").read_text("utf-8")
    assert "Riddle: What is 2? Answer:" in page
