"""Importing this module registers the plugin with fairseq; `kosmos_plugin.register()` does."""

from kosmos_plugin.compat import apply

apply()  # the patches come before what they patch is used

from kosmos_plugin.fairseq_modules import architectures, criterion, fused_adamw, task  # noqa: E402, F401

architectures.register()
