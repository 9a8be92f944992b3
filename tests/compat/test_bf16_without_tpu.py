"""`--bf16` trains where there is no TPU, and `--tpu` still asks for one."""

import pytest
import torch
from fairseq import options


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--bf16", "--memory-efficient-bf16"])
def test_trains_in_bf16(train, tmp_path, option):
    train(tmp_path, "--max-update", "1", "--disable-validation", option)
    # fairseq saves weights as float32
    weights = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["model"]
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())


@pytest.mark.parametrize("given, tpu", [([], False), (["--bf16"], False), (["--bf16", "--tpu"], True)])
def test_tpu_on_request(given, tpu):
    arguments = ["data.yaml", "--task", "kosmos_multimodal", "--arch", "kosmos_tiny", *given]
    assert options.parse_args_and_arch(options.get_training_parser(), arguments).tpu is tpu
    known, _ = options.parse_args_and_arch(options.get_training_parser(), arguments, parse_known=True)
    assert known.tpu is tpu
