from fairseq.data import data_utils
from omegaconf import OmegaConf


def config(data):
    dataset = {"ignore_unused_valid_subsets": False, "combine_valid_subsets": None, "disable_validation": False}
    return OmegaConf.create({"dataset": {**dataset, "valid_subset": "valid"}, "task": {"data": str(data)}})


def test_a_data_file_has_no_forgotten_validation_sets(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("streams: {}")
    data_utils.raise_if_valid_subsets_unintentionally_ignored(config(path))


def test_a_data_folder_is_searched_as_before(tmp_path):
    (tmp_path / "valid1.bin").write_text("")
    try:
        data_utils.raise_if_valid_subsets_unintentionally_ignored(config(tmp_path))
    except ValueError as error:
        assert "valid1" in str(error)
    else:
        raise AssertionError("a forgotten validation set was not noticed")
