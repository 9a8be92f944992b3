"""Updates with NaN, infinities and spikes: named down to the document, skipped on all ranks, and counted.

One caption of the data has a letter that the vocabulary lacks. In the checkpoint that the trainings go on from, the
input embedding of `<unk>` is NaN or very large, so that this caption alone is bad.
"""

import itertools
import json
import math
import random
import re

import pytest
import torch
import yaml

from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.errors import UserError
from tests import tiny
from tests.fairseq_modules.test_resume import Training

KEY = "bad00001"
OPTIONS = ("--num-workers", 0, "--disable-validation", "--untied-embeddings", "--dropout", 0.1, "--clip-norm", 1)
UPDATES = 10


@pytest.fixture(scope="module")
def with_a_bad_caption(tmp_path_factory):
    data = tiny.write_data(tmp_path_factory.mktemp("bad") / "data", documents=12, sequences=(2, 4, 2))
    config = yaml.safe_load(data.read_text())
    del config["streams"]["interleaved"]  # its keys have letters that the vocabulary lacks, too
    data.write_text(yaml.safe_dump(config))
    rng = random.Random(2)
    captions = {f"good{i:05d}": tiny.sentence(rng) for i in range(11)} | {KEY: "a red Ω"}
    members = [tiny.caption_members(key, caption, tiny.png(rng)) for key, caption in captions.items()]
    for shard, part in enumerate((members[:6], members[6:])):
        tiny.write_tar(data.parent / "captions" / f"train-{shard}.tar", list(itertools.chain(*part)))
    return data


@pytest.fixture(scope="module")
def bad_places(with_a_bad_caption) -> dict[int, int]:
    """Update, from 1 → the rank of two that has the bad caption."""
    task = tiny.task(with_a_bad_caption)
    task.load_dataset("train")
    mixture, places = task.dataset("train"), {}
    for update in range(UPDATES):
        for rank in range(2):
            for plan in MicroBatches(mixture, task.collator(), rank, 2, 1).plan(update):
                if any(KEY in sample.id for row in mixture.read(plan) for sample in row.samples):
                    places[update + 1] = rank
    assert {rank for update, rank in places.items() if update > 2} == {0, 1} and len(places) < UPDATES / 2
    return places


def edited(folder, value: float):
    """Make the input embedding of `<unk>` in the last checkpoint `value` times what it is."""
    path = folder / "checkpoint_last.pt"
    state = torch.load(path, weights_only=True)
    state["model"]["decoder.embed_tokens.weight"][3] *= value
    torch.save(state, path)


def train(data, folder, *options):
    return torch.load(tiny.train(data, folder, "--cpu", *OPTIONS, *options), weights_only=True)


def logged(caplog) -> dict[int, dict[str, str]]:
    found = [json.loads(record.getMessage()) for record in caplog.records if record.name == "train_inner"]
    return {int(values["num_updates"]): values for values in found}


def weights_by_update(folder) -> dict[int, dict[str, torch.Tensor]]:
    states = [torch.load(path, weights_only=True) for path in folder.glob("checkpoint*.pt")]
    return {state["optimizer_history"][-1]["num_updates"]: state["model"] for state in states}


def same(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(weight.nan_to_num(7), others[name].nan_to_num(7)) for name, weight in weights.items())


def position(state) -> int:
    iterator = state["extra_state"]["train_iterator"]
    return (iterator["epoch"] - 1) * iterator["updates_per_epoch"] + iterator["updates_in_epoch"]


@pytest.mark.parametrize("precision", ["float32", "bf16", "bf16-autocast"])
def test_a_bad_document_is_named_and_its_update_skipped(with_a_bad_caption, bad_places, tmp_path, caplog, precision):
    options = [] if precision == "float32" else [f"--{precision}"]
    options += ["--save-interval-updates", 1, "--optimizer", "fused_adamw" if precision == "bf16" else "adam"]
    train(with_a_bad_caption, tmp_path, *options, "--max-update", 1)
    edited(tmp_path, math.nan)
    caplog.clear()
    with caplog.at_level("INFO"):
        state = train(with_a_bad_caption, tmp_path, *options, "--max-update", UPDATES)
    values = logged(caplog)
    assert list(values) == list(range(2, UPDATES + 1)), "a skipped update counts"
    assert state["optimizer_history"][-1]["num_updates"] == position(state) == UPDATES
    reports = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "is skipped" in r.getMessage()]
    bad = [update for update in bad_places if update > 1]
    assert [int(re.match(r"Update (\d+) is skipped", report)[1]) for report in reports] == bad
    for number, report in enumerate(reports, 1):
        assert f"({number} of --max-skipped-updates 10)" in report
        (document,) = re.findall("rank 0, accumulation step 0, stream captions: (.*)", report)
        assert re.fullmatch(rf"noise/\d+ \(.*{KEY}\): the loss is nan", document)
        assert "weights were NaN or infinite before this update: decoder.embed_tokens.weight." in report
    weights = weights_by_update(tmp_path)
    for update in range(2, UPDATES + 1):
        if update > 2:  # the first checkpoint was edited under another name
            assert same(weights[update - 1], weights[update]) == (update in bad)
        assert ("gnorm" in values[update]) == ("loss_text" in values[update]) == (update not in bad)
        assert update in bad or math.isfinite(float(values[update]["gnorm"]) + float(values[update]["loss"]))
    assert "null" not in json.dumps(values)
    assert int(float(values[UPDATES]["skipped_updates"])) == len(bad)


def test_too_many_bad_updates_end_the_training(with_a_bad_caption, bad_places, tmp_path):
    train(with_a_bad_caption, tmp_path, "--max-update", 1)
    edited(tmp_path, math.nan)
    bad = min(update for update in bad_places if update > 1)
    with pytest.raises(UserError) as stopped:
        train(with_a_bad_caption, tmp_path, "--max-update", UPDATES, "--max-skipped-updates", 0, "--update-freq", 2)
    message = str(stopped.value)
    assert message.startswith(f"Update {bad}: its loss is nan, and --max-skipped-updates 0 allows no more such updates")
    step = re.search(rf"accumulation step (\d), stream captions: .*{KEY}\): the loss is nan", message)[1]
    assert f"--update {bad - 1} --ranks 1 --rank 0 --update-freq 2 --accumulation-step {step}" in message
    assert not (tmp_path / "crash.pt").exists()


def test_gradients_that_are_too_large(with_a_bad_caption, tmp_path):
    """The loss is as before, but the squares of some gradients are above float32's largest number."""
    train(with_a_bad_caption, tmp_path, "--max-update", 1)
    path = tmp_path / "checkpoint_last.pt"
    state = torch.load(path, weights_only=True)
    state["model"]["decoder.layers.0.ffn.ffn_layernorm.weight"] *= 1e-25
    state["model"]["decoder.layers.0.ffn.ffn_layernorm.bias"] *= 1e-25
    state["model"]["decoder.layers.0.ffn.fc2.weight"] *= 1e25
    torch.save(state, path)
    with pytest.raises(UserError) as stopped:
        train(with_a_bad_caption, tmp_path, "--max-update", 2, "--max-skipped-updates", 0)
    assert str(stopped.value).startswith("Update 2: the norm of its gradients is inf, and --max-skipped-updates 0")
    assert re.search(
        r"stream text: words/\d+ \(.*text/train/row \d+\): the norm of the gradients is inf", str(stopped.value)
    )


@pytest.mark.slow
def test_a_resumed_training_skips_alike(with_a_bad_caption, bad_places, tmp_path):
    """The count of skipped updates and the statistics of spikes are in the checkpoint."""
    options = ("--spike-window", 4, "--spike-deviations", 0.2, "--skip-spikes", "--save-interval-updates", 1)
    train(with_a_bad_caption, tmp_path / "once", *options, "--max-update", 1)
    edited(tmp_path / "once", math.nan)
    once = train(with_a_bad_caption, tmp_path / "once", *options, "--max-update", UPDATES)
    checks = once["extra_state"]["train_iterator"]["update_checks"]
    assert checks["skipped"] == len([update for update in bad_places if update > 1])
    assert checks["spikes"] > 0
    train(with_a_bad_caption, tmp_path / "often", *options, "--max-update", 1)
    edited(tmp_path / "often", math.nan)
    for last in range(3, UPDATES + 1):
        often = train(with_a_bad_caption, tmp_path / "often", *options, "--max-update", last)
    assert often["extra_state"]["train_iterator"]["update_checks"] == checks
    assert same(once["model"], often["model"])


@pytest.mark.parametrize("skip", [True, False])
def test_a_spike_is_logged_and_skipped_if_asked(with_a_bad_caption, tmp_path, caplog, skip):
    """Its window is that of the checkpoint: in this process the update is the first one."""
    options = ["--spike-window", 4, "--spike-deviations", 10, *(["--skip-spikes"] if skip else [])]
    path = tmp_path / "checkpoint_last.pt"
    train(with_a_bad_caption, tmp_path, *options, "--max-update", 4)
    state = torch.load(path, weights_only=True)
    state["model"]["decoder.output_projection.weight"] *= 100
    torch.save(state, path)
    caplog.clear()
    with caplog.at_level("INFO"):
        after = train(with_a_bad_caption, tmp_path, *options, "--max-update", 5)
    (report,) = [record.getMessage() for record in caplog.records if "Update 5" in record.getMessage()]
    consequence = "is skipped" if skip else "has a spike (--skip-spikes would skip it)"
    assert report.startswith(f"Update 5 {consequence}: its loss ")
    assert "standard deviations above the mean" in report and "of the last 4 updates" in report
    assert all(torch.equal(weight, after["model"][name]) for name, weight in state["model"].items()) == skip
    assert after["optimizer_history"][-1]["num_updates"] == position(after) == 5
    values = logged(caplog)[5]
    assert values["spikes"] == "1" and "skipped_updates" not in values
    assert float(values["loss"]) > 50 and math.isfinite(float(values["gnorm"]))


@pytest.mark.slow
def test_both_ranks_skip_what_is_bad_on_one(with_a_bad_caption, bad_places, tmp_path):
    options = {"num-workers": 0, "untied-embeddings": True, "clip-norm": 1}
    Training(with_a_bad_caption, tmp_path, 2, **options, **{"max-update": 1}).finish()
    edited(tmp_path, math.nan)
    training = Training(with_a_bad_caption, tmp_path, 2, **options, **{"max-update": UPDATES}).finish()
    assert training.update_reached() == position(training.last()) == UPDATES
    output = (tmp_path / "output.txt").read_text()
    bad = {update: rank for update, rank in bad_places.items() if update > 1}
    found = re.findall(r"Update (\d+) is skipped[^\n]*\n[^\n]*\n +rank (\d), accumulation step 0, [^\n]*" + KEY, output)
    assert {int(update): int(rank) for update, rank in found} == bad and len(found) == len(bad)
    assert all(
        math.isfinite(float(losses["loss"])) for update, losses in training.losses().items() if update not in bad
    )
