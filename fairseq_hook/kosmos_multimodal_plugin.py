"""Installed into fairseq's ``tasks/`` folder, whose modules fairseq imports: registers kosmos_plugin.

Nothing that goes wrong here may break ``import fairseq`` for the other users of this environment, so every error
becomes a warning that names it.
"""

import os
import sys
import warnings


def _user_dir_named_on_the_command_line() -> str:
    """The value of fairseq's ``--user-dir`` (or of hydra's ``common.user_dir=``), or an empty string."""
    arguments = sys.argv[1:]
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--user-dir", "common.user_dir", "+common.user_dir", "++common.user_dir") and value:
            return value
        if argument == "--user-dir" and i + 1 < len(arguments):
            return arguments[i + 1]
    return ""


# `--user-dir CHECKOUT/kosmos_plugin` asks for that copy, which fairseq imports by itself; importing the installed one
# here would take its place.
user_dir = _user_dir_named_on_the_command_line()
if not user_dir or os.path.basename(os.path.abspath(user_dir)) != "kosmos_plugin":
    try:
        import kosmos_plugin

        kosmos_plugin.register()
    except Exception as error:
        warnings.warn(
            f"kosmos_plugin is installed but could not be registered, so --task kosmos_multimodal is not available: "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=1,
        )
