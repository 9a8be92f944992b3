"""KOSMOS-1 for fairseq. Importing this registers the task, the architectures and the criterion with fairseq."""

from kosmos_plugin.compat import apply

apply()

from kosmos_plugin.criterions import multimodal_cross_entropy  # noqa: E402, F401
from kosmos_plugin.models import register  # noqa: E402
from kosmos_plugin.tasks import kosmos_multimodal  # noqa: E402, F401

register()
