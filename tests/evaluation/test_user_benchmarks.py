"""FILE.py:CLASS: a benchmark of a user's file runs as the others, and what can be wrong with it is one line."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.plan import plan_runs
from kosmos_plugin.evaluation.ranks import Ranks
from kosmos_plugin.evaluation.reporting.report import as_text, write_report
from kosmos_plugin.evaluation.results import read_results, write_results
from kosmos_plugin.evaluation.run import Run, evaluate
from kosmos_plugin.evaluation.user_benchmarks import user_benchmark
from tests.evaluation.stand_in import Guessing, Knowing

BENCHMARK = """
from dataclasses import dataclass

from kosmos_plugin.data.documents import Text
from kosmos_plugin.evaluation.benchmark import Benchmark, Item
from kosmos_plugin.evaluation.metrics.accuracy import accuracy
from kosmos_plugin.evaluation.requests import Generate, question


class Sums(Benchmark):
    name = "sums"
    title = "Sums"
    splits = ("small", "large")
    few_shot = True
    has_images = False

    def files(self, few_shot):
        return []

    def items(self):
        start = 10 if self.split == "large" else 0
        return [Item(str(number), str(2 * number)) for number in range(start, start + 5)]

    def training_items(self):
        return [Item(f"train {number}", str(2 * number)) for number in range(20, 26)]

    def request(self, item, demonstrations):
        shown = tuple((Text(f"twice {one.id} is {one.reference}\\n"),) for one in demonstrations)
        return Generate(question(f"twice {item.id} is"), demonstrations=shown)

    def score(self, items, answers):
        return accuracy(items, answers)
"""


def write(folder, text=BENCHMARK, name="sums.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture
def checkpoint_file(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"weights")
    return path


def test_splits_shots_limit_and_report(tmp_path, checkpoint_file):
    path, out = write(tmp_path), tmp_path / "out"
    plan = plan_runs(checkpoint_file, f"{path}:Sums", None, shots="0,2", split="large", limit=3, text_only=True)
    for run in plan.runs:
        write_results(out, [*read_results(out), evaluate(run, Knowing(run), out, 2, Ranks())])
    zero, two = read_results(out)
    assert (zero.benchmark, zero.split, zero.shots, two.shots) == ("sums", "large", 0, 2)
    assert zero.items == two.items == 3 and two.metrics == {"accuracy": 100}
    [first, *_] = (out / "sums/large-2-shot/predictions.jsonl").read_text().splitlines()
    assert json.loads(first)["prompts"][0].count("twice") == 3
    write_report(out)
    text = as_text(read_results(out))
    assert "\nSums\n" in text and "§" not in text and "arXiv" not in text
    assert "of the paper" not in (out / "sums/large-2-shot/page.html").read_text("utf-8")
    assert "KOSMOS-1" not in (out / "report.md").read_text("utf-8")


def test_names_and_files_mix(tmp_path, checkpoint_file, releases):
    path = write(tmp_path)
    plan = plan_runs(checkpoint_file, f"copa, {path}:Sums,boolq", releases, shots="0")
    assert [run.benchmark.name for run in plan.runs] == ["copa", "sums", "boolq"]
    assert plan.runs[1].benchmark.folder == releases
    write(tmp_path, BENCHMARK.replace("return []", 'return ["sums.txt"]'), "absent.py")
    message = rf"sums: sums\.txt is not in {releases}\.\nAll files exist for --benchmark copa$"
    with pytest.raises(UserError, match=message):
        plan_runs(checkpoint_file, f"copa,{tmp_path}/absent.py:Sums", releases, shots="0")


def test_a_changed_file_is_not_resumed(tmp_path, checkpoint_file):
    """Its answers may have had other prompts."""
    path, out = write(tmp_path), tmp_path / "out"

    def run():
        [planned] = plan_runs(checkpoint_file, f"{path}:Sums", None).runs
        return evaluate(planned, Guessing(0), out, 2, Ranks())

    assert run() == run()
    path.write_text(f"{path.read_text()}\n# another prompt\n")
    with pytest.raises(
        UserError, match=r"made with benchmark's digest '.*', not benchmark's digest '.*': give another"
    ):
        run()


def test_a_neighbour_can_be_imported(tmp_path):
    """As from a script, and it counts as a part of the benchmark; annotations may be texts."""
    write(tmp_path, BENCHMARK.replace("class Sums", "class SumsOfNeighbour"), "neighbour_of_sums.py")
    write(
        tmp_path,
        """
        from __future__ import annotations
        from dataclasses import dataclass
        from neighbour_of_sums import SumsOfNeighbour
        from kosmos_plugin.evaluation.benchmark import Item

        @dataclass(frozen=True)
        class Sum(Item):
            number: int

        class Sums(SumsOfNeighbour):
            name = "inherited"

            def items(self):
                return [Sum("1", "2", 1)]

            def training_items(self):
                return 1 / 0
        """,
        "inherits.py",
    )
    benchmark = user_benchmark(f"{tmp_path}/inherits.py:Sums", None, None)
    assert [path.name for path in benchmark.defined_in] == ["inherits.py", "neighbour_of_sums.py"]
    with pytest.raises(UserError, match=r"^inherited: .*inherits\.py, line 18: ZeroDivisionError: division by zero$"):
        evaluate(Run(benchmark, 2, "", ""), Guessing(0), tmp_path / "out", 2, Ranks())


def with_class(body: str) -> str:
    return f"{BENCHMARK}\n\nclass Wrong(Sums):\n    {body}\n"


IMPORT_ERRORS = {
    "x = 1\nraise ValueError('a\\nb')": r"sums\.py cannot be imported: .*sums\.py, line 2: ValueError: a b$",
    "x = 1\n\nif x\n": r"sums\.py, line 3: SyntaxError: expected ':'$",
    "import no_such_module\n": r"sums\.py, line 1: ModuleNotFoundError: No module named 'no_such_module'$",
    "from . import other\n": r"sums\.py, line 1: ImportError: attempted relative import",
    "import sys\nsys.exit(3)\n": r"sums\.py, line 2: SystemExit: 3$",
    "import json\njson.loads('{')\n": r"sums\.py, line 2: JSONDecodeError: ",
}


@pytest.mark.parametrize("text", IMPORT_ERRORS)
def test_errors_while_it_is_imported(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=IMPORT_ERRORS[text]) as error:
        user_benchmark(f"{path}:Sums", None, None)
    assert "\n" not in str(error.value)


def test_files_that_are_no_python(tmp_path):
    for content in (b"\xff\xfe\x00", b"\0\0", "x = '½'".encode("latin-1")):
        path = tmp_path / f"binary_{len(content)}.py"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"binary_\d\.py cannot be imported: .*Error"):
            user_benchmark(f"{path}:Sums", None, None)


WRONG_CLASSES = {
    "{path}": "sums.py needs its class. Its benchmarks: {path}:Sums, {path}:Wrong.",
    "{path}:": "sums.py needs its class. Its benchmarks: {path}:Sums, {path}:Wrong.",
    "{path}:Sum": "sums.py has no class 'Sum'. Did you mean 'Sums'? Its benchmarks: {path}:Sums, {path}:Wrong.",
    "{path}:accuracy": "accuracy is not a subclass of kosmos_plugin.evaluation.benchmark.Benchmark.",
    "{path}:Item": "Item is not a subclass of",
    "{path}:Benchmark": "does not define files, items, request, score of Benchmark.",
    "{folder}/other.py:Sums": "other.py does not exist.",
    "{folder}.py:Sums": ".py is not a file.",
}


@pytest.mark.parametrize("name", WRONG_CLASSES)
def test_names_of_files_and_classes_that_are_wrong(tmp_path, name):
    folder = tmp_path / "folder"
    (tmp_path / "folder.py").mkdir(parents=True)
    path = write(tmp_path, with_class('name = "wrong"'))
    with pytest.raises(UserError) as error:
        user_benchmark(name.format(path=path, folder=folder), None, None)
    assert WRONG_CLASSES[name].format(path=path) in str(error.value)


WRONG_BODIES = {
    "name = 'copa'": "there is a benchmark 'copa' in the package: give it another name.",
    "name = 'a/b'": "'name' must be a name without /; it is 'a/b'.",
    "name = '..'": "'name' must be a name",
    "name = 3": "'name' must be a name without /; it is 3.",
    "splits = 'test'": "'splits' must be a tuple of names without /; it is 'test'.",
    "splits = ()": "'splits' must be a tuple of names without /; it is ().",
    "shots = 4": "'shots' must be a tuple of numbers, such as (0,); it is 4.",
    "training_items = Benchmark.training_items": "sets few_shot, but does not define training_items",
    "def __init__(self): pass": "cannot be created: TypeError: ",
    "def __init__(self, folder, split): raise KeyError('x')": "sums.py, line 36: KeyError: 'x'",
}


@pytest.mark.parametrize("body", WRONG_BODIES)
def test_classes_that_are_no_benchmarks(tmp_path, body):
    path = write(tmp_path, with_class(body))
    with pytest.raises(UserError) as error:
        user_benchmark(f"{path}:Wrong", None, None)
    assert WRONG_BODIES[body] in str(error.value) and "\n" not in str(error.value)


def test_a_class_without_its_attributes(tmp_path):
    path = write(tmp_path, BENCHMARK.replace('    name = "sums"\n    title = "Sums"\n', ""))
    with pytest.raises(UserError, match="Sums does not set name, title, as every benchmark does"):
        user_benchmark(f"{path}:Sums", None, None)
    path = write(tmp_path, BENCHMARK.replace("def score", "def scores"), "no_score.py")
    with pytest.raises(UserError, match="Sums does not define score of Benchmark"):
        user_benchmark(f"{path}:Sums", None, None)


WRONG_METHODS = {
    "def items(self): return None": "sums: items() must give Items; it gives None.",
    "def items(self): return [{'id': '1'}]": "sums: items() must give Items whose ids are texts, not {'id': '1'}.",
    "def items(self): return [Item(1, '2')]": "whose ids are texts, not Item(id=1, reference='2').",
    "def items(self): return [Item('1', {2})]": "the reference of item '1' must be of JSON's types; it is {2}.",
    "def items(self): return [Item('1', '2')] * 2": "has '1' more than once",
    "def items(self): return iter(())": "sums: there are no items of small",
    "def items(self): return self.numbers": "sums.py, line 36: AttributeError: ",
    "def request(self, *_): return None": "sums: the request for item '0' must be Generate or Choose; it is None.",
    "def request(self, *_): return Generate('2 + 2 =')": "a prompt is a tuple of Text and Image; it has '2'.",
    "def request(self, *_): return Generate(('2 + 2 =',))": "a prompt is a tuple of Text and Image; it has '2 + 2 ='.",
    "def request(self, item, _): return item.text": "sums.py, line 36: AttributeError: 'Item' object has no attribute",
    "def score(self, *_): return 0.5": "sums: score() must give Scores with a metric; it gives 0.5.",
    "def score(self, items, answers): return accuracy(items[1:], answers[1:])": "score() gives 4 values for 5 items.",
    "def score(self, items, answers): return accuracy(items[1:], answers)": "sums.py, line 36: ValueError: zip()",
}


@pytest.mark.parametrize("body", WRONG_METHODS)
def test_methods_that_do_something_else(tmp_path, body):
    benchmark = user_benchmark(f"{write(tmp_path, with_class(body))}:Wrong", None, None)
    with pytest.raises(UserError) as error:
        evaluate(Run(benchmark, 0, "", ""), Guessing(0), tmp_path / "out", 2, Ranks())
    assert WRONG_METHODS[body] in str(error.value) and "\n" not in str(error.value)


def test_items_may_be_generated(tmp_path):
    body = "def items(self):\n        yield from super().items()"
    benchmark = user_benchmark(f"{write(tmp_path, with_class(body))}:Wrong", None, None)
    assert [item.id for item in Run(benchmark, 0, "", "", limit=2).items()] == ["0", "1"]


def test_errors_of_the_package_are_no_errors_of_the_user(tmp_path):
    class Broken(Guessing):
        def generate(self, requests):
            raise RuntimeError("out of memory")

    benchmark = user_benchmark(f"{write(tmp_path)}:Sums", None, None)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(Run(benchmark, 0, "", ""), Broken(0), tmp_path / "out", 2, Ranks())


def test_two_of_the_same_name(tmp_path, checkpoint_file):
    path = write(tmp_path, with_class("pass"))
    with pytest.raises(UserError, match=r"sums\.py:Sums and .*sums\.py:Wrong are both called 'sums': give one of them"):
        plan_runs(checkpoint_file, f"{path}:Sums,{path}:Wrong", None)
    assert len(plan_runs(checkpoint_file, f"{path}:Sums,{path}:Sums", None).runs) == 1, "given twice, run once"


@pytest.mark.slow
def test_two_ranks(checkpoint, tmp_path):
    path = write(tmp_path)
    (tmp_path / "sums_in_lines.jsonl").write_text('{"prompt": "one and one is", "answer": "two"}\n')
    for ranks in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        options = f"--path {checkpoint} --out {tmp_path}/{ranks} --shots 0 --batch-size 1"
        names = f"{path}:Sums,{tmp_path}/sums_in_lines.jsonl"
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "fairseq_cli_ext.evaluate", "--benchmark", names, *options.split()],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / f"{ranks}/sums/small-0-shot/predictions.jsonl").read_text() for ranks in (1, 2))
    assert one == two and len(one.splitlines()) == 5
    assert read_results(tmp_path / "1") == read_results(tmp_path / "2")
