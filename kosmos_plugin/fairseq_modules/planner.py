"""Chooses how attention is computed in a training (`--attention auto`), and how its batches are planned for that."""

import logging
from typing import Any

import torch
from fairseq.distributed.utils import get_global_rank

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.batch_plan import BatchPlanner
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.varlen_attention import varlen_obstacle

logger = logging.getLogger(__name__)


def planner_for(model: Kosmos, pad: int, task: Any) -> BatchPlanner:
    """The planner of the batches of a model that is trained.

    Args:
        model: The model.
        pad: The id of `<pad>`.
        task: The task's options.

    Raises:
        UserError: `--attention varlen` was asked for where it cannot be computed.
    """
    config = model.config
    on_gpu = torch.cuda.is_available() and task.cpu is not True
    half_precision = config.bf16_autocast or any(each is True for each in (task.fp16, task.bf16, task.amp))
    obstacle = varlen_obstacle(model.decoder.head_dim, half_precision) if on_gpu else "it runs on GPUs only"
    attention = config.attention
    if attention == "varlen" and obstacle:
        raise UserError(f"--attention varlen cannot be computed here: {obstacle}. Leave it out.")
    if attention == "auto":
        attention = "documents" if obstacle else "varlen"
        if on_gpu and obstacle and get_global_rank() == 0:
            logger.warning(f"Attention is computed without FlashAttention's kernel for packed documents: {obstacle}.")
    return BatchPlanner(attention, pad, config.image_tokens if model.vision is not None else 0)
