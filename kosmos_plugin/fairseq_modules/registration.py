"""Importing this module registers the plugin with fairseq; `kosmos_plugin.register()` does."""

from kosmos_plugin.compat import apply

apply()  # the patches come before what they patch is used

from kosmos_plugin.fairseq_modules import (  # noqa: E402
    architectures,
    criterion,  # noqa: F401
    fused_adamw,  # noqa: F401
    managed_training,
    open_corpora,
    task,  # noqa: F401
)

architectures.register()
managed_training.apply()
open_corpora.apply()
