"""One list of the private APIs of other libraries that the package uses, each with a canary test.

If a release moves one of them, the test here fails with its name, instead of a training somewhere.
"""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# (module, attribute path) → its use
PRIVATE_APIS = {
    ("fsspec.spec", "AbstractFileSystem._strip_protocol"): "data/remote_files: the path of an address",
    ("fsspec.asyn", "AsyncFileSystem._cat_file"): "data/remote_files: a range of a file, with a timeout",
    ("fsspec.asyn", "AsyncFileSystem._info"): "data/remote_files: the size of a file, with a timeout",
    ("torch", "UntypedStorage._cdata"): "checkpoints/snapshot: which tensors share their memory",
    ("torch", "UntypedStorage._new_shared"): "data/batch: a worker's batch in one block of shared memory",
    (
        "torch.fx.experimental._config",
        "use_duck_shape",
    ): "models/kosmos: sizes that are equal by chance stay independent",
    (
        "torch._inductor.config",
        "triton.mix_order_reduction_non_strict_mode",
    ): "models/kosmos: LayerNorm's backward pass in one kernel, whatever the number of rows",
    ("torch", "ops.aten._flash_attention_forward"): "models/varlen_attention: documents of any lengths in one call",
    ("torch", "ops.aten._scaled_dot_product_flash_attention"): "models/decoder: results that checkpointing keeps",
    ("torch", "ops.aten._scaled_dot_product_efficient_attention"): "models/decoder: the same",
    ("torch", "ops.aten._scaled_dot_product_cudnn_attention"): "models/decoder: the same",
    ("torch", "ops.aten._scaled_dot_product_flash_attention_for_cpu"): "models/decoder: the same",
    ("torch", "_disable_dynamo"): "models/attention_plan: a part that is not compiled, without importing the compiler",
    ("torch", "_foreach_copy_"): "compat/grouped_copies: all gradients or weights in one call",
    (
        "fairseq.optim",
        "FP16Optimizer._sync_fp16_grads_to_fp32",
    ): "compat/grouped_copies: replaced",
    ("fairseq.optim", "FP16Optimizer._sync_fp32_params_to_fp16"): "compat/grouped_copies: replaced",
    ("open_clip.transformer", "VisionTransformer._embeds"): "models/vision_clip: patches, class token and positions",
    ("hydra._internal.utils", "get_args_parser"): "planning/command: the arguments of fairseq-hydra-train",
    ("datatrove.executor", "LocalPipelineExecutor._run_for_rank"): "curation/pipeline: tasks on concurrent.futures",
    ("fairseq.distributed.utils", "_broadcast_object_slow"): "compat/broadcast: resuming on several ranks",
    ("fairseq.data.data_utils", "_find_extra_valid_paths"): "compat/data_file: DATA is a file",
    ("torch", "_C.PyTorchFileReader"): "tensor_files: the members of an archive, as torch itself sees them",
    ("fairseq.checkpoint_utils", "_upgrade_state_dict"): "fairseq_modules/restoring: checkpoints of older versions",
    (
        "multiprocessing.forkserver",
        "_forkserver._forkserver_pid",
    ): "fairseq_cli_ext/stopping: the server ends with the command",
    ("os", "_exit"): "fairseq_cli_ext/stopping, fairseq_modules/stall_watch: an end that nothing delays (documented)",
    ("fairseq.trainer", "Trainer._aggregate_logging_outputs"): "compat/skipped_updates: replaced",
    ("fairseq.trainer", "Trainer._reduce_and_log_stats"): "compat/skipped_updates: replaced",
    ("fairseq.trainer", "Trainer._prepare_sample"): "fairseq_modules/bad_documents: a micro-batch on the device, again",
    ("fairseq.trainer", "Trainer._set_seed"): "fairseq_modules/bad_documents: the same dropout, again",
    (
        "torch.distributed.distributed_c10d",
        "_set_pg_timeout",
    ): "fairseq_modules/managed_training: collective operations wait longer than the stall watch",
}
# models/vision_efficientnet runs EfficientNet part by part.
EFFICIENTNET_PARTS = {"_fc", "_blocks", "_conv_head", "_conv_stem", "_bn0", "_bn1", "_swish"}
# checkpoints/transformers_config describes them.
EFFICIENTNET_BLOCK_PARTS = {"_block_args", "_expand_conv", "_depthwise_conv", "_project_conv"}


@pytest.mark.parametrize(("module", "path"), PRIVATE_APIS)
def test_it_is_there(module, path):
    found = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)


def test_parts_of_efficientnet_are_there():
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    assert all(hasattr(net, name) for name in EFFICIENTNET_PARTS)
    assert all(hasattr(net._blocks[1], name) for name in EFFICIENTNET_BLOCK_PARTS)


def private_attributes(tree: ast.Module) -> set[str]:
    """Names such as `_x` that are looked up on something other than `self`, `cls` and `super()`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            target = node.value
            own = isinstance(target, ast.Name) and target.id in ("self", "cls")
            if not own and not (isinstance(target, ast.Call) and getattr(target.func, "id", "") == "super"):
                found.add(node.attr)
    return found


def defined_names(tree: ast.Module) -> set[str]:
    """Functions, methods, and attributes of `self` that a module defines."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def test_every_one_is_listed():
    sources = [path for room in ("kosmos_plugin", "fairseq_cli_ext") for path in sorted((ROOT / room).rglob("*.py"))]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sources}
    ours = set().union(*map(defined_names, trees.values()))
    listed = {name for _, path in PRIVATE_APIS for name in path.split(".")}
    listed |= EFFICIENTNET_PARTS | EFFICIENTNET_BLOCK_PARTS
    listed.add("_name")  # of fairseq's configs
    listed.add("_attn_implementation")  # transformers' own models read it, as those of its documentation do
    unlisted = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, tree in trees.items()
        for name in private_attributes(tree) - listed - ours
    }
    assert not unlisted
