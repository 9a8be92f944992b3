"""Adapters to evaluation harnesses, so that people run a model on the benchmarks that they already have.

    python -m kosmos_plugin.evaluation.harnesses.lm_eval_model --model kosmos --model_args path=CHECKPOINT --tasks …
    lmms-eval --model kosmos --model_args path=CHECKPOINT --tasks vqav2_val --batch_size 16

lmms_eval finds its adapter by an entry point, and so will lm_eval after 0.4.13 (`lm_eval --model kosmos`). Until then
its command is started by the module that registers ours, with the same options.
"""


def lmms_eval_manifest():
    """What lmms_eval's entry points ask for: where its model `kosmos` is, not yet imported."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("kosmos", simple_class_path=f"{__name__}.lmms_eval_model.KosmosLmms")
