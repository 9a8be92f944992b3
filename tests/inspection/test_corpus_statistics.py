"""kosmos-prepare stats: its numbers equal those of a direct count."""

import base64
import json

import pytest

from fairseq_cli_ext import prepare
from tests import tiny

SIZES = f"--image-tokens {tiny.IMAGE_TOKENS} --tokens-per-sample {tiny.TOKENS_PER_SAMPLE}".split()


def run(data, out, *arguments) -> dict:
    prepare.cli_main(["stats", str(data), "--out", str(out), *SIZES, *map(str, arguments)])
    return json.loads((out / "statistics.json").read_text())["streams"]


def test_statistics_are_those_of_a_direct_count(data, tmp_path, capsys):
    streams = run(data, tmp_path, "--updates", 20)
    task = tiny.task(data)
    task.load_dataset("train")
    mixture = task.dataset("train")
    for stream in mixture.streams:
        (corpus,) = stream.corpora
        name = stream.config.name
        ((_, found),) = streams[name]["corpora"].items()
        samples = [corpus[i] for i in range(len(corpus))]
        totals = found["totals"]
        assert totals["tokens"] == sum(map(len, samples))
        assert totals["in_loss"] == sum(int((sample.targets != task.vocabulary.pad).sum()) for sample in samples)
        assert totals["images"] == sum(len(sample.images) for sample in samples)
        assert found["epochs"] == stream.epochs(20)[stream.names[0]]
        assert not found["totals_are_estimated"] and found["documents"] == 40
        rows = [row for row in mixture.rows(0) if mixture.streams[row.stream] is stream]
        assert streams[name]["rows_per_update"] == len(rows)
        assert streams[name]["packing_efficiency"] == pytest.approx(
            sum(row.num_tokens for row in rows) / len(rows) / 64
        )
        if name != "text":
            assert found["tokens_per_document"]["longest"] == max(map(len, samples))
            words = sum(
                len(s.text.split()) for i in range(40) for s in corpus.documents[i].segments if hasattr(s, "text")
            )
            assert totals["words"] == words
            assert sum(found["images_per_document"].values()) == pytest.approx(1)
            assert found["sources"] == {"train-0.tar": 0.5, "train-1.tar": 0.5}
    plots = (tmp_path / "statistics.png").read_bytes()
    assert plots.startswith(b"\x89PNG")
    assert "epochs in 20 updates" in (tmp_path / "statistics.md").read_text()
    assert "captions" in capsys.readouterr().out
    page = (tmp_path / "statistics.html").read_text(encoding="utf-8")
    assert base64.b64encode(plots).decode() in page
    for stream in streams.values():
        for name, corpus in stream["corpora"].items():
            assert f">{name}<" in page
            assert all(f">{total:,}<" in page for total in corpus["totals"].values())


def test_totals_from_a_sample_are_marked_as_estimated(data, tmp_path):
    for stream, found in run(data, tmp_path / "some", "--documents", 10).items():
        ((_, corpus),) = found["corpora"].items()
        assert corpus["examined"] == 10 and corpus["totals_are_estimated"]
        ((_, whole),) = run(data, tmp_path / "all")[stream]["corpora"].items()
        assert 0.6 < corpus["totals"]["words"] / whole["totals"]["words"] < 1.6
        if stream == "text":
            assert corpus["totals"]["tokens"] == whole["totals"]["tokens"]


def test_unusable_documents_and_sources(data, tmp_path):
    def member(key, **about):
        return (f"{key}.json", json.dumps(about).encode())

    text = [{"text": "a red cat"}]
    members = [
        member("0", segments=text, url="https://en.example.org/a"),
        member("1", segments=text, id="core_data.jsonl/7"),
        member("2", segments=[{"text": "a red cat", "in_loss": False}]),
        member("3", segments=[{"text": "cat " * 100}]),
        ("4.json", b"{"),
    ]
    tiny.write_tar(tmp_path / "0.tar", members)
    (tmp_path / "data.yaml").write_text(
        f"vocabulary: {data.parent / 'vocabulary'}\nstreams:\n  pages:\n    kind: interleaved\n"
        "    sequences_per_update: 5\n    corpora: [{name: some, train: 0.tar}]\n"
    )
    corpus = run(tmp_path / "data.yaml", tmp_path / "out")["pages"]["corpora"]["some"]
    assert corpus["unusable"] == {"no text to learn from": 1, "longer than a row": 1, "invalid JSON": 1}
    assert corpus["sources"] == {"core_data.jsonl": 0.5, "en.example.org": 0.5}


def test_a_wrong_option_is_one_clear_error(data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(data, tmp_path, "--documents", 0)
    assert "--documents must be at least 1" in capsys.readouterr().err
