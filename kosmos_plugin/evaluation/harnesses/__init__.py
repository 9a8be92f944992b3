"""Adapters to lm-evaluation-harness and lmms-eval, to run a model on their tasks.

    python -m kosmos_plugin.evaluation.harnesses.lm_eval_model --model kosmos --model_args path=CHECKPOINT --tasks …
    lmms-eval --model kosmos --model_args path=CHECKPOINT --tasks vqav2_val --batch_size 16

lmms_eval finds its adapter by an entry point, and so will lm_eval after 0.4.13 (`lm_eval --model kosmos`). Until then,
the module that registers our model starts lm_eval's command, with the same options.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def lmms_eval_manifest() -> "ModelManifest":
    """Tell lmms_eval's entry point where the class of the model `kosmos` is, without importing it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("kosmos", simple_class_path=f"{__name__}.lmms_eval_model.KosmosLmms")
