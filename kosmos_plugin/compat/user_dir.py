"""fairseq rejects `--user-dir` for a plugin that is already imported under another spelling of its path.

An installed plugin is imported together with fairseq, and `import_user_module` then finds its name taken. It rejects a
link to the same directory, and for another copy it advises to rename the directory, which would break the plugin's
absolute imports. This patch accepts the same directory, and rejects another copy with an error that says what to do.
"""

import os
import sys
from typing import Any

from fairseq import utils

_import_user_module = utils.import_user_module


def is_needed() -> bool:
    """Return True: fairseq always compares paths as they are spelled."""
    return True


def apply() -> None:
    """Replace `utils.import_user_module`."""
    utils.import_user_module = import_user_module


def import_user_module(args: Any) -> None:
    """fairseq's function of this name, for `args` that may have a `user_dir`.

    Raises:
        ImportError: `user_dir` is a copy of the plugin other than the one that is imported.
    """
    if getattr(args, "user_dir", None) is None:
        return
    user_dir = os.path.abspath(args.user_dir)
    if os.path.basename(user_dir) != "kosmos_plugin" or not os.path.isdir(user_dir):
        _import_user_module(args)
        return
    imported_from = list(sys.modules["kosmos_plugin"].__path__)
    if not any(os.path.samefile(user_dir, path) for path in imported_from):
        raise ImportError(
            f"--user-dir {user_dir}: kosmos_plugin is already imported, from {imported_from[0]}. "
            "Omit --user-dir to use that copy. To use the other one, name it on the command line of a fairseq command "
            "(in Python: import it before fairseq, with its parent directory first on sys.path), "
            "or `pip uninstall kosmos-plugin`."
        )
