"""What fairseq needs mended on today's Python, torch and NumPy: one file a breakage.

Every mend is a module with ``is_needed()``, whether the breakage is present in what is installed here, and
``apply()``, which replaces attributes of fairseq's modules. The modules patched are leaves of fairseq's import graph
(or imported before ``fairseq.tasks`` is), because the plugin may be imported in the middle of ``import fairseq``.
Nothing here imports TorchScale or open_clip.
"""

from types import ModuleType

_applied = False


def apply() -> None:
    """Applies the mends that are needed here; a second call does nothing.

    Raises:
        ImportError: fairseq is not installed.
    """
    global _applied
    if _applied:
        return
    _require_fairseq()
    for mend in _mends():
        if mend.is_needed():
            mend.apply()
    _applied = True


def _require_fairseq() -> None:
    try:
        import fairseq
    except ModuleNotFoundError as error:
        if error.name != "fairseq":
            raise
        fairseq = None
    # The registration module in site-packages/fairseq/tasks makes `fairseq` an importable but empty name.
    if fairseq is None or fairseq.__file__ is None:
        raise ImportError(
            "kosmos_plugin trains inside fairseq, and fairseq is not installed. "
            "On Python 3.11 and 3.12: pip install 'kosmos-plugin[fairseq]'"
        )


def _mends() -> tuple[ModuleType, ...]:
    # imported here, as they import fairseq
    from kosmos_plugin.compat import (
        atomic_files,
        bf16_without_tpu,
        broadcast,
        cpu_ranks,
        data_file,
        numpy_names,
        user_dir,
    )

    return (user_dir, numpy_names, atomic_files, bf16_without_tpu, broadcast, cpu_ranks, data_file)
