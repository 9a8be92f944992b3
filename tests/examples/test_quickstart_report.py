"""The quickstart's report on made-up results: it contains every figure and image, and is self-contained."""

import base64
import copy
import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs the quickstart extra: pip install kosmos-plugin[quickstart]")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "quickstart"))

import report

RESULTS = {
    "easy_vqa": {
        "accuracy": 0.9531,
        "accuracy_interval": [0.949, 0.957],
        "shuffled": 0.6012,
        "shuffled_interval": [0.592, 0.611],
        "question_only_reported": 0.67,
        "n": 9673,
        "by_kind": {
            "yes/no": {"accuracy": 0.961, "shuffled": 0.731, "n": 7136},
            "color": {"accuracy": 0.952, "shuffled": 0.133, "n": 1280},
            "shape": {"accuracy": 0.904, "shuffled": 0.345, "n": 1257},
        },
    },
    "benchmarks": {
        "easy_vqa_captions": {
            "title": "easy-VQA, captions",
            "metric": "CIDEr",
            "n": 880,
            "own": [312.4, 305.1, 319.8],
            "shuffled": [71.3, 64.2, 78.9],
            "untrained": [0.4, 0.1, 0.9],
        },
        "lines": {
            "title": "Line drawings, name out of 100",
            "metric": "accuracy",
            "n": 100,
            "own": [61.2, 51.3, 70.8],
            "shuffled": [1.5, 0.0, 4.1],
            "untrained": [1.1, 0.0, 3.2],
        },
    },
    "examples": [
        {
            "image": "pictures/circle.png",
            "prompt": "<image>Question: is it <round>? Answer:",
            "output": "yes",
            "truth": "yes",
            "kind": "easy_vqa",
        },
        {
            "image": "pictures/apple.png",
            "prompt": "<image> Question: what is this? Answer:",
            "output": "a tomato",
            "truth": "an apple",
            "kind": "lines",
        },
    ],
    "train": {"updates": 1800, "seconds": 612.4, "parameters": 5_612_345, "trainable_parameters": 2_301_234},
    "machine": {"cpu": "Some Processor", "cores": 2, "versions": {"torch": "2.11.0", "fairseq": "0.12.3"}},
}
FIGURES = (
    *("95.3% (94.9-95.7)", "60.1% (59.2-61.1)", "67.0%", "9,673"),
    *("96.1%", "73.1%", "7,136", "95.2%", "13.3%", "1,280", "90.4%", "34.5%", "1,257"),
    *("61.2 (51.3-70.8)", "1.5 (0.0-4.1)", "1.1 (0.0-3.2)", "out of 100"),
    *("312.4 (305.1-319.8)", "71.3 (64.2-78.9)", "0.4 (0.1-0.9)", "880", "CIDEr"),
    *("1,800", "10 min 12 s", "5.61 M", "2.30 M", "Some Processor, 2 cores", "torch 2.11.0", "fairseq 0.12.3"),
)


def log_line(kind: str, **values) -> str:
    return f"2026-01-01 00:00:00 | INFO | {kind} | {json.dumps(values)}\n"


LOG = "".join(
    [
        "2026-01-01 00:00:00 | INFO | fairseq_cli.train | KosmosModel(…)\n",
        log_line("train_inner", loss="11", loss_text="12.5", loss_captions="11.5", num_updates="100", lr="0.001"),
        log_line("train_inner", loss="9", loss_text="9.5", loss_interleaved="1.5", num_updates="200"),
        log_line(
            "valid", valid_loss="9", valid_loss_text="8.25", valid_loss_interleaved="2.75", valid_num_updates="200"
        ),
        log_line("train", train_loss="9", train_loss_text="9", train_num_updates="200"),
        log_line("train_inner", loss="8", loss_text="9.25", num_updates="200"),  # logged again by a resumed run
    ]
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A results folder with two images."""
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "pictures").mkdir()
    for name, color in (("circle", "blue"), ("apple", "red")):
        image.new("RGB", (8, 8), color).save(tmp_path / "pictures" / f"{name}.png")
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "train.log").write_text(LOG)
    return tmp_path


def test_losses_are_read_by_stream_and_the_last_logged_value_is_taken(folder):
    assert report.read_losses(folder / "train.log") == {
        "train": {"text": [(100, 12.5), (200, 9.25)], "captions": [(100, 11.5)], "interleaved": [(200, 1.5)]},
        "valid": {"text": [(200, 8.25)], "interleaved": [(200, 2.75)]},
    }


def test_the_page_and_the_terminal_have_each_figure(folder, capsys):
    page = report.write_report(folder).read_text("utf-8")
    terminal = capsys.readouterr().out
    for figure in FIGURES:
        assert figure in page
        assert figure in terminal
    for head in ("correct image", "wrong image", "baseline"):
        assert f'<th scope="col">{head}</th>' in page and head in terminal
    assert "text 8.25" in page and "(easy-VQA, OpenMoji) 2.75" in page
    assert "bits per token" in page
    assert max(map(len, terminal.splitlines())) <= 110


def test_the_page_is_self_contained(folder):
    page = report.write_report(folder).read_text("utf-8")
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "<script" not in page and "@import" not in page and "<link" not in page
    assert "{{" not in page and "{%" not in page
    for example in RESULTS["examples"]:
        assert base64.b64encode((folder / example["image"]).read_bytes()).decode() in page


def test_pictures_are_shown_with_the_answer_and_the_truth(folder):
    cards = re.findall(r"<figure.*?</figure>", report.write_report(folder).read_text("utf-8"), re.DOTALL)
    assert len(cards) == 2
    assert 'class="wrong"' in cards[0] and "✗" in cards[0] and "tomato" in cards[0] and "truth: an apple" in cards[0]
    assert 'class="right"' in cards[1] and "✓" in cards[1] and "is it &lt;round&gt;?" in cards[1]


@pytest.mark.parametrize(
    "output, right", [("yes", True), (" Yes. ", True), ("no", False), ("yes no", False), ("", False)]
)
def test_an_answer_is_right_as_a_whole(output, right):
    assert report.is_right({"output": output, "truth": "yes"}) == right


def test_pictures_for_a_readme_are_the_same_each_time(folder):
    page = report.write_report(folder).read_bytes()
    pictures = [(folder / name).read_bytes() for name in ("loss.png", "examples.png")]
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 5000 for picture in pictures)
    assert report.write_report(folder).read_bytes() == page
    assert [(folder / name).read_bytes() for name in ("loss.png", "examples.png")] == pictures


def test_one_kind_of_example_is_enough(folder):
    results = copy.deepcopy(RESULTS)
    results["examples"] = results["examples"][:1]
    (folder / "results.json").write_text(json.dumps(results))
    assert report.write_report(folder).read_text("utf-8").count("<figure") == 1


def test_missing_files_are_one_error(tmp_path):
    with pytest.raises(SystemExit, match=r"no train\.log and no results\.json"):
        report.write_report(tmp_path)


def test_a_log_without_losses_is_an_error_that_says_what_to_do(folder):
    (folder / "train.log").write_text("nothing\n")
    with pytest.raises(SystemExit, match="--log-format json"):
        report.write_report(folder)
