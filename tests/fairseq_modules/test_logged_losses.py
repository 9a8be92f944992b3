"""The losses that fairseq logs: a stream without a target in a log interval has none, and a huge loss ends nothing."""

import json
import math
import random

import pytest
import yaml
from fairseq.logging import metrics

from kosmos_plugin.fairseq_modules.criterion import MultimodalCrossEntropyCriterion
from tests import tiny


@pytest.fixture
def half_broken(tmp_path):
    """Data of one caption an update, every second with a broken image, beside two other streams."""
    data = tiny.write_data(tmp_path / "data", documents=4, sequences=(1, 1, 1))
    whole = tiny.caption_members("whole", "a red cat", tiny.png(random.Random(0)))
    broken = tiny.caption_members("broken", "a red cat", b"\x89PNG nothing")
    tiny.write_tar(data.parent / "captions" / "train-0.tar", whole)
    tiny.write_tar(data.parent / "captions" / "train-1.tar", broken)
    return data


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("log_format", ["json", "simple"])
def test_a_stream_without_a_target_is_not_logged(half_broken, tmp_path, caplog, interval, log_format):
    options = ("--cpu", "--num-workers", "0", "--max-skipped-rate", "1", "--disable-validation")
    with caplog.at_level("INFO"):
        options += ("--log-interval", interval, "--log-format", log_format)
        tiny.train(half_broken, tmp_path / "run", *options, "--max-update", "6")
        tiny.train(half_broken, tmp_path / "run", *options, "--max-update", "12")  # from the saved meters
    lines = [record.getMessage() for record in caplog.records if record.name == "train_inner"]
    assert len(lines) == 12 // interval
    assert not any("None" in line or "null" in line for line in lines)
    if log_format == "json":
        logged = [json.loads(line) for line in lines]
        assert all("loss_text" in values and "ppl_text" in values for values in logged)
        with_captions = ["loss_captions" in values for values in logged]
        assert with_captions == ["ppl_captions" in values for values in logged]
        assert True in with_captions
        assert (False in with_captions) == (interval == 1)


def test_captions_alone(half_broken, tmp_path, caplog):
    config = yaml.safe_load(half_broken.read_text())
    config["streams"] = {"captions": config["streams"]["captions"]}
    half_broken.write_text(yaml.safe_dump(config))
    options = ("--cpu", "--num-workers", "0", "--max-skipped-rate", "1", "--disable-validation", "--max-update", "8")
    with caplog.at_level("INFO"):
        tiny.train(half_broken, tmp_path / "run", *options)
    logged = [json.loads(record.getMessage()) for record in caplog.records if record.name == "train_inner"]
    assert sum("loss_captions" in values for values in logged) == 4
    assert all(math.isfinite(float(values["loss"])) == ("loss_captions" in values) for values in logged)


def outputs(loss: float, targets: int) -> dict[str, float]:
    return {"loss": loss, "sample_size": targets, "ntokens": targets, "loss_a": loss, "targets_a": targets}


def test_the_next_interval_starts_without_the_meters_of_the_last():
    with metrics.aggregate("interval", new_root=True) as meters:
        for loss, targets in ((8.0, 4), (0.0, 0), (6.0, 2)):
            MultimodalCrossEntropyCriterion.reduce_metrics([outputs(loss, targets)])
            values = meters.get_smoothed_values()
            assert ("loss_a" in values) == ("ppl_a" in values) == (targets > 0)
            assert math.isfinite(values["loss"]) == math.isfinite(values["ppl"]) == (targets > 0)
            assert set(meters) == {key for _, _, key in meters.priorities}
            meters.reset()


def test_a_batch_without_a_target_does_not_change_the_mean():
    with metrics.aggregate("valid", new_root=True) as meters:
        for loss, targets in ((8.0, 4), (0.0, 0), (6.0, 2), (0.0, 0)):
            with metrics.aggregate() as step:
                MultimodalCrossEntropyCriterion.reduce_metrics([outputs(loss, targets)])
                assert "loss" in step  # otherwise fairseq logs -1
        for name in ("loss", "loss_a"):
            assert meters.get_smoothed_value(name) == pytest.approx(14 / 6 / math.log(2), abs=1e-3)


@pytest.mark.parametrize("loss", [1e6, float("inf")])
def test_a_huge_loss_has_an_infinite_perplexity(loss):
    with metrics.aggregate("interval", new_root=True) as meters:
        MultimodalCrossEntropyCriterion.reduce_metrics([outputs(loss, 1)])
        assert meters.get_smoothed_values()["ppl"] == float("inf")
