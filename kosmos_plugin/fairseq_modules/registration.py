"""Importing this module registers the plugin with fairseq; `kosmos_plugin.register()` does."""

from kosmos_plugin.compat import apply

apply()  # the patches come before what they patch is used

from kosmos_plugin.fairseq_modules import (  # noqa: E402
    architectures,
    criterion,  # noqa: F401
    fused_adamw,  # noqa: F401
    open_corpora,
    task,  # noqa: F401
    training_run,
)

architectures.register()
open_corpora.apply()
training_run.apply()
