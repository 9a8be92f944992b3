"""kosmos-inspect shows the tensors of training: tokens, targets, borders and images; wrong options are one line."""

import base64
import io
import random
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import sentencepiece
import torch
from PIL import Image

from fairseq_cli_ext.inspect import cli_main
from kosmos_plugin.vocabulary import write_dictionary
from tests import tiny

SIZES = (
    f"--image-tokens {tiny.IMAGE_TOKENS} --image-size {tiny.IMAGE_SIZE} --tokens-per-sample {tiny.TOKENS_PER_SAMPLE} "
    "--rows 1000"
).split()
# Options of the command, and the same for the batch iterator: (update, rank, ranks, update_freq, step, split)
MICRO_BATCHES = {
    "": (0, 0, 1, 1, 0, "train"),
    "--update 7 --rank 1 --ranks 2 --update-freq 2 --accumulation-step 1": (7, 1, 2, 2, 1, "train"),
    "--split valid": (0, 0, 1, 1, 0, "valid"),
    "--split valid --ranks 64 --rank 63": (0, 63, 64, 1, 0, "valid"),  # no row is left for this rank
}


class Page(HTMLParser):
    """Parses a page: for each row ids and targets by position, starts of documents, and tokens in the loss."""

    def __init__(self, page: str):
        super().__init__()
        self.rows, self.images, self.text, self.tags = [], [], [], set()
        self.next_begins = False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        classes, title = attributes.get("class", "").split(), attributes.get("title", "")
        self.tags.add(tag)
        if tag == "section":
            self.rows.append({"ids": {}, "targets": {}, "begins": [], "in_loss": 0})
        elif tag == "img":
            self.images.append(attributes["src"])
        elif "part" in classes:
            self.next_begins = "padding" not in classes
        elif self.rows and "t" in classes:
            row, position = self.rows[-1], int(re.search(r"position (\d+)", title)[1])
            row["in_loss"] += "in-loss" in classes
            if "other" not in classes:
                row["ids"][position] = int(re.search(r"token (\d+)", title)[1])
                target = re.search(r"\((\d+)\)$", title)
                row["targets"][position] = int(target[1]) if target else None
                if self.next_begins:
                    row["begins"].append(position)
                self.next_begins = False

    def handle_data(self, data):
        self.text.append(data)


def inspect(data, tmp_path, capsys, options: str = "") -> tuple[str, Page, str]:
    """Run the command; return its printed text and its page, parsed and as HTML."""
    page = tmp_path / "page.html"
    cli_main([str(data), *SIZES, *options.split(), "--html", str(page)])
    written = page.read_text(encoding="utf-8")
    return capsys.readouterr().out, Page(written), written


def batch_of_training(data, update, rank, ranks, update_freq, step, split):
    task = tiny.task(data, update_freq)
    task.load_dataset(split)
    iterator = task.get_batch_iterator(task.dataset(split), num_shards=ranks, shard_id=rank).next_epoch_itr()
    for _ in range(update * update_freq + step):
        next(iterator)
    return task, next(iterator)


def parts_as_text(out: str) -> list[str]:
    """The documents in the printed rows, each as one line without marks and folds."""
    rows = out[re.search(r"^Row 0", out, re.M).start() :]
    bodies = [re.sub(r"\s+", " ", body) for body in re.findall(r"─ document.*\n((?:    .*\n?)+)", rows)]
    bodies = [re.sub(r"\[\d+ × image \d+\]|\[→ [^]]*\]|[⟦⟧]", "", body).replace("<unk>", "⁇") for body in bodies]
    return [re.sub(r"\s+", " ", re.sub(r"(?<!\\)</?(s|image|line)>", " ", body)).strip() for body in bodies]


@pytest.mark.parametrize("options", MICRO_BATCHES)
def test_page_and_text_show_the_batch_of_training(data, tmp_path, capsys, options):
    task, batch = batch_of_training(data, *MICRO_BATCHES[options])
    out, page, _ = inspect(data, tmp_path, capsys, options)
    pad = task.vocabulary.pad
    assert len(page.rows) == len(batch["tokens"])
    texts = []
    for b, row in enumerate(page.rows):
        shown = ((batch["document_ids"][b] > 0) & ~batch["image_slots"][b]).nonzero().flatten().tolist()
        assert row["ids"] == {i: int(batch["tokens"][b, i]) for i in shown}
        targets = {i: int(batch["targets"][b, i]) for i in shown}
        assert row["targets"] == {i: None if target == pad else target for i, target in targets.items()}
        assert row["in_loss"] == int(batch["targets"][b].ne(pad).sum())
        tokens, documents = batch["tokens"][b].numpy(), batch["document_ids"][b].numpy()
        begins = np.append(True, tokens[:-1] == task.vocabulary.eos) | (np.diff(documents, prepend=0) != 0)
        assert row["begins"] == np.flatnonzero(begins & (documents > 0)).tolist()
        texts += [task.vocabulary.decode(part) for part in np.split(tokens, row["begins"])[1:]]
    assert parts_as_text(out) == [re.sub(r"\s+", " ", text).strip() for text in texts]
    assert re.search(rf"^  all .* {int(batch['targets'].ne(pad).sum())}$", out, re.M)


@pytest.mark.parametrize("options", MICRO_BATCHES)
def test_every_image_of_the_batch_is_in_the_page(data, tmp_path, capsys, options):
    _, batch = batch_of_training(data, *MICRO_BATCHES[options])
    out, page, written = inspect(data, tmp_path, capsys, options)
    shown = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in page.images]
    shown = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in shown]
    assert len(shown) == len(batch["images"])
    assert all(torch.equal(image, expected) for image, expected in zip(shown, batch["images"], strict=True))
    for number in range(len(shown)):
        assert f"[{tiny.IMAGE_TOKENS} × image {number}]" in out
        assert f"{tiny.IMAGE_TOKENS} × image {number}<" in written
    folded = sum(map(int, re.findall(r"\[(\d+) × padding\]", out)))
    assert folded == int((batch["document_ids"] == 0).sum())


def test_text_says_which_documents_see_each_other_and_which_continue(data, tmp_path, capsys):
    out, _, _ = inspect(data, tmp_path, capsys)
    assert re.search(r"^Row 0 · text · \d documents, which see each other · 6\d of 64", out, re.M)
    assert re.search(r"· captions · \d documents, which do not see each other ·", out)
    assert "continues after it" in out and "begins before this row" not in out
    assert re.search(r"^  text +text +words +40 +100.0% +2 rows +see each other$", out, re.M)
    assert re.search(r"─ document 1 · train-\d.tar/\d{8}$", out, re.M)
    path = tiny.text_data(data, tmp_path)
    path.write_text(path.read_text().replace("kind: text", "kind: text\n    packing: continuous"))
    out, _, _ = inspect(path, tmp_path, capsys)
    assert re.search(r"^Row 0 · text · \d documents, which see each other · 64 of 64", out, re.M)
    assert "continues after it" in out and "begins before this row" in out


def test_rows_not_shown_are_counted(data, tmp_path, capsys):
    out, page, _ = inspect(data, tmp_path, capsys, "--rows 1")
    assert len(page.rows) == 3
    assert re.search(r"Rows not shown: 1 of text, .*--rows \d shows all\.$", out)
    assert "Rows not shown: 1 of text" in "".join(page.text)


def yaml_of(folder, vocabulary, members, kind, sequences=1):
    tiny.write_tar(folder / "0.tar", members)
    path = folder / "data.yaml"
    path.write_text(
        f"vocabulary: {vocabulary}\nstreams:\n  <i>some</i>:\n    kind: {kind}\n"
        f"    sequences_per_update: {sequences}\n    corpora: [{{name: <b>, train: 0.tar}}]\n"
    )
    return path


def test_markup_in_data_is_text(tmp_path, capsys):
    caption, folder = "<script> a </image> <image>", tmp_path / "<u>&"
    (folder / "vocabulary").mkdir(parents=True)
    with open(folder / "vocabulary" / "sentencepiece.model", "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([caption] * 9), model_writer=model, model_type="char", vocab_size=17, minloglevel=2
        )
    write_dictionary(folder / "vocabulary")
    members = tiny.caption_members("000<em>", caption, tiny.png(random.Random(0)))
    out, page, written = inspect(yaml_of(folder, "vocabulary", members, "captions"), tmp_path, capsys)
    for tag in ("script", "i", "b", "em", "u"):
        assert tag not in page.tags
    assert "<script" not in written
    assert "".join(page.text).count("<script>") == 1
    assert "⟦<s> <image>⟧ [4 × image 0] ⟦</image>⟧ <script> a \\</image> \\<image> </s>" in out  # text is not a token


def test_text_that_is_not_in_the_loss_is_marked(data, tmp_path, capsys):
    segments = [{"text": "a red dog", "in_loss": False}, {"text": "runs"}]
    path = yaml_of(tmp_path, data.parent / "vocabulary", tiny.interleaved_members("0", segments, []), "interleaved")
    out, page, _ = inspect(path, tmp_path, capsys)
    assert "⟦<s> a red dog⟧ runs </s>" in out
    assert page.rows[0]["in_loss"] == 2


def test_a_row_that_lost_a_sample_has_no_names(data, tmp_path, capsys):
    members = tiny.caption_members("one", "red dog", b"no image") + tiny.caption_members(
        "two", "red dog", tiny.png(random.Random(0))
    )
    path = yaml_of(tmp_path, data.parent / "vocabulary", members, "captions", sequences=2)
    cli_main([str(path), *SIZES])
    out, error = capsys.readouterr()
    assert out.count("red dog") == 1 and "0.tar/" not in out
    assert "skipped as broken: 1" in error


def test_colors_only_on_a_terminal(data, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in inspect(data, tmp_path, capsys)[0]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    colored = inspect(data, tmp_path, capsys)[0]
    assert "\x1b[2m<s>\x1b[0m" in colored and "⟦" not in colored


@pytest.mark.parametrize(
    "options, message",
    [
        ("--rank 2 --ranks 2", "--rank must be 0 … 1 with --ranks 2, not 2."),
        ("--rank -1", "--rank must be 0 … 0 with --ranks 1, not -1."),
        ("--accumulation-step 3 --update-freq 3", "--accumulation-step must be 0 … 2 with --update-freq 3, not 3."),
        ("--update -1", "--update must be at least 0"),
        ("--split valid --update 99", "--update must be below"),
        ("--ranks 0", "--ranks must be at least 1"),
        ("--image-size 0", "--image-size must be at least 1"),
        ("--ranks 1000", "too few for 1000 ranks"),
        ("--html /nowhere/page.html", "Cannot write the page /nowhere/page.html: No such file or directory."),
    ],
)
def test_a_wrong_option_is_one_line(data, capsys, options, message):
    with pytest.raises(SystemExit) as exit:
        cli_main([str(data), *SIZES, *options.split()])
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_missing_yaml(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli_main([str(tmp_path / "none.yaml")])
    assert "none.yaml does not exist." in capsys.readouterr().err


def test_no_model_is_imported(data):
    program = (
        f"import sys; from fairseq_cli_ext.inspect import cli_main; cli_main({[str(data), *SIZES]!r}); "
        "assert not {'torchscale', 'open_clip', 'timm', 'torchvision'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "This micro-batch" in done.stdout


def test_the_page_is_written_though_nobody_reads_the_text(data, tmp_path):
    """`kosmos-inspect … --html page.html | head` ends the command while it prints."""
    page = tmp_path / "page.html"
    options = f"--image-tokens {tiny.IMAGE_TOKENS} --image-size {tiny.IMAGE_SIZE} --tokens-per-sample 64"
    command = [sys.executable, "-m", "fairseq_cli_ext.inspect", str(data), *options.split(), "--html", str(page)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        process.wait()
    assert page.read_text().rstrip().endswith("</html>")
