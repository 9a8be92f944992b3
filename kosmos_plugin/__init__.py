"""KOSMOS-1 for fairseq. Importing it registers the task, architectures, criterion and optimizer with fairseq."""

from kosmos_plugin.compat import apply

apply()

from kosmos_plugin import fused_adamw  # noqa: E402, F401
from kosmos_plugin.criterions import multimodal_cross_entropy  # noqa: E402, F401
from kosmos_plugin.models import register  # noqa: E402
from kosmos_plugin.tasks import kosmos_multimodal  # noqa: E402, F401

register()
