"""fairseq refuses ``--user-dir`` for a module that is already imported from a path of another spelling.

An installed plugin is imported with fairseq, and ``import_user_module`` then meets the same name again: through a
link it refuses the very same directory, and for another copy its advice is to rename the directory, which the
plugin's absolute imports do not survive. The same directory is accepted here, another is refused with what to do
about it.
"""

import os
import sys

from fairseq import utils

_import_user_module = utils.import_user_module


def is_needed() -> bool:
    return True


def apply() -> None:
    utils.import_user_module = import_user_module


def import_user_module(args) -> None:
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
            "Leave --user-dir out to use that copy; to use the other, name it on the command line of a fairseq command "
            "(in Python: import it before fairseq, with its parent directory first on sys.path), "
            "or `pip uninstall kosmos-plugin`."
        )
