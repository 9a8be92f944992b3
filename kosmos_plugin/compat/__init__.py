"""Patches for fairseq on current Python, torch and NumPy, one file per problem.

A patch is a module with two functions: `is_needed()` says whether the installed versions have the problem, and
`apply()` replaces attributes of fairseq's modules. The plugin may be imported in the middle of `import fairseq`, so
patches touch only leaves of fairseq's import graph, or modules that are imported before `fairseq.tasks`. Nothing here
imports TorchScale or open_clip.
"""

from typing import Protocol


class Patch(Protocol):
    """A module of this package that patches fairseq."""

    def is_needed(self) -> bool:
        """Whether the installed versions have the problem."""

    def apply(self) -> None:
        """Patch fairseq."""


def apply() -> None:
    """Import fairseq and apply the patches that are needed.

    Raises:
        ImportError: fairseq is not installed.
    """
    from kosmos_plugin.compat.quiet_import import import_fairseq

    import_fairseq()
    for patch in _patches():
        if patch.is_needed():
            patch.apply()


def _patches() -> tuple[Patch, ...]:
    # imported here, as they import fairseq
    from kosmos_plugin.compat import (
        apex_optimizer_state,
        atomic_files,
        bf16_without_tpu,
        broadcast,
        cpu_ranks,
        data_file,
        exact_resume,
        grouped_copies,
        hydra_warnings,
        merged_sizes,
        numpy_names,
        shared_parameters,
        skipped_updates,
        user_dir,
    )

    return (
        user_dir,
        numpy_names,
        apex_optimizer_state,
        atomic_files,
        bf16_without_tpu,
        broadcast,
        cpu_ranks,
        data_file,
        exact_resume,
        grouped_copies,
        hydra_warnings,
        merged_sizes,
        shared_parameters,
        skipped_updates,
    )
