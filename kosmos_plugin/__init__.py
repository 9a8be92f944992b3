"""KOSMOS-1 for fairseq. Importing it registers the task, architectures, criterion and optimizer with fairseq."""

from kosmos_plugin.compat import apply

apply()

from kosmos_plugin.fairseq_modules import criterion, fused_adamw, task  # noqa: E402, F401
from kosmos_plugin.models import register  # noqa: E402

register()
