"""The table of GPUs, by the names that torch gives to devices."""

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.gpus import GPUS, find_gpu, gpu_named

DEVICES = {
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA H200": "H200",
    "NVIDIA H200 NVL": "H200 NVL",
    "NVIDIA H800": "H800",
    "NVIDIA H20": "H20",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA B200": "B200",
    "NVIDIA GB200": "GB200",
    "NVIDIA A100-SXM4-80GB": "A100",
    "NVIDIA A100 80GB PCIe": "A100",
    "NVIDIA A100-SXM4-40GB": "A100 40GB",
    "NVIDIA A100-PCIE-40GB": "A100 40GB",
    "A100-SXM4-40GB": "A100 40GB",
    "NVIDIA A10": "A10",
    "NVIDIA L4": "L4",
    "NVIDIA L40": "L40",
    "NVIDIA L40S": "L40S",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    "NVIDIA RTX A6000": "RTX A6000",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "AMD Instinct MI300X": "MI300X",
}
UNKNOWN = [
    "Tesla V100-SXM2-32GB", "Tesla T4", "Quadro RTX 6000", "NVIDIA A10G", "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "GRID A100-40C",
    "NVIDIA GeForce RTX 4080 SUPER", "", "NVIDIA Graphics Device",
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_devices_are_found(device):
    assert find_gpu(device).name == DEVICES[device]


@pytest.mark.parametrize("device", UNKNOWN)
def test_other_devices_have_no_known_peak(device):
    assert find_gpu(device) is None


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_options_name_them_in_any_case(gpu):
    for name in (gpu.name, gpu.name.lower(), gpu.name.replace(" ", "-"), gpu.name.replace(" ", "_").upper()):
        assert gpu_named(name, "--gpu") == gpu


def test_an_option_takes_torchs_name_too():
    assert gpu_named("NVIDIA H100 80GB HBM3", "--gpu").name == "H100"


def test_an_unknown_gpu_is_one_error():
    with pytest.raises(UserError, match=r"--gpu H300 is not in the table of GPUs: .*H100.* Did you mean 'H\d00'"):
        gpu_named("H300", "--gpu")
