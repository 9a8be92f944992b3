"""Registers kosmos_plugin. Installed in fairseq's `tasks/` folder, whose modules fairseq imports.

An error here must not break `import fairseq` for everyone else in the environment, so it becomes a warning.
"""

import os
import sys
import warnings


def _user_dir_named_on_the_command_line() -> str:
    """Return the value of fairseq's `--user-dir` (or of Hydra's `common.user_dir=`), or an empty string."""
    arguments = sys.argv[1:]
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--user-dir", "common.user_dir", "+common.user_dir", "++common.user_dir") and value:
            return value
        if argument == "--user-dir" and i + 1 < len(arguments):
            return arguments[i + 1]
    return ""


# With `--user-dir CHECKOUT/kosmos_plugin` fairseq imports that copy, but only if the installed one is not imported here
# first.
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
