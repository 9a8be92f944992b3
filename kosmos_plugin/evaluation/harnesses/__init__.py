"""Adapters to evaluation harnesses, so that people run a model on the benchmarks that they already have.

    lm_eval --model kosmos --model_args path=CHECKPOINT --tasks hellaswag --batch_size 16
    lmms-eval --model kosmos --model_args path=CHECKPOINT --tasks vqav2_val --batch_size 16

Both harnesses find the adapters by entry points (`lm_eval.models`, `lmms_eval.models`). lm_eval up to 0.4.13 has none:
there `python -m kosmos_plugin.evaluation.harnesses.lm_eval_model` stands for `lm_eval`.
"""


def lmms_eval_manifest():
    """What lmms_eval's entry points ask for: where its model `kosmos` is, not yet imported."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("kosmos", simple_class_path=f"{__name__}.lmms_eval_model.KosmosLmms")
