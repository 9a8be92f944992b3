"""A training's configuration, read from the command that would start it.

    SCRIPT.sh  ─ bash, with stand-ins for torchrun and fairseq-train first in PATH ─→ their arguments
               ─ torchrun's and fairseq's own parsers ─→ TrainingCommand
    CONFIG.yaml ─ Hydra's compose, as in fairseq-hydra-train ─→ TrainingCommand

The script is executed up to its first call of one of these commands, and no further.
"""

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kosmos_plugin.errors import UserError, require_file
from kosmos_plugin.models.config import ARCHITECTURES
from kosmos_plugin.paper.settings import RUNS

STAND_INS = ("torchrun", "fairseq-train", "fairseq-hydra-train")
TIMEOUT = 60  # seconds that a script may take until it calls one of them
_RECORD = """#!/bin/sh
printf '%s\\0' "$PWD" "${{0##*/}}" "$@" > {record}
kill -KILL 0
"""
_CLAIM = re.compile(r"^# kosmos-inspect: paper (\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class TrainingCommand:
    """A training as its command describes it."""

    path: str  # the script or YAML
    config: DictConfig  # fairseq's configuration, with every interpolation resolved
    data: str | None  # the data YAML
    vocabulary: str | None  # the vocabulary's folder, if it is not the data YAML's
    ranks: int
    ranks_from: str  # where this number comes from: torchrun or an option
    claim: str | None  # the run of the paper that it claims to be


def read_training_command(path: str, option: str = "--plan") -> TrainingCommand:
    """Read the training that a script or a Hydra configuration would start.

    Args:
        path: A bash script, or a Hydra configuration (.yaml).
        option: The option that named it, for error messages.

    Raises:
        UserError: There is no such file, it starts no training of a KOSMOS model, or an option in it is wrong.
    """
    require_file(path, option)
    try:
        claim = _claim(path)
    except UnicodeDecodeError:
        raise UserError(f"{option} {path} is not a script or a YAML file: it is not UTF-8.") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Hydra's, about how fairseq uses it
        config, folder, torchrun_ranks = _configuration(path)
    _check_names(path, *(getattr(config.get(kind), "_name", None) for kind in ("task", "model")))
    if len(config.optimization.update_freq) != 1:
        raise UserError(f"{path}: --update-freq must be one number, not {list(config.optimization.update_freq)}.")

    def located(name: str | None) -> str | None:
        return None if name in (None, "???") else _shortest(os.path.join(folder, name))

    return TrainingCommand(
        path=path,
        config=config,
        data=located(config.task.data),
        vocabulary=located(config.task.vocabulary),
        ranks=torchrun_ranks or config.distributed_training.distributed_world_size,
        ranks_from="torchrun" if torchrun_ranks else "--distributed-world-size",
        claim=claim,
    )


def _configuration(path: str) -> tuple[DictConfig, str, int | None]:
    """(fairseq's configuration, the folder in which the training would start, torchrun's number of ranks)."""
    if path.endswith((".yaml", ".yml")):
        return _hydra_config(Path(path).parent, Path(path).stem, []), ".", None
    folder, program, arguments = _recorded_call(path)
    ranks = None
    if program == "torchrun":
        ranks, program, arguments = _torchrun(path, arguments)
    if program == "fairseq-train":
        return _fairseq_config(path, arguments), folder, ranks
    return _config_of_hydra_arguments(path, folder, arguments), folder, ranks


def _shortest(path: str) -> str:
    """The path relative to the working directory, if it is inside."""
    relative = os.path.relpath(path)
    return os.path.normpath(path) if relative.startswith("..") else relative


def _claim(path: str) -> str | None:
    """The paper's run that the file claims to be."""
    claims = _CLAIM.findall(Path(path).read_text(encoding="utf-8"))
    for claim in claims:
        if claim not in RUNS:
            raise UserError(f"{path} says `kosmos-inspect: paper {claim}`; the paper's runs are {', '.join(RUNS)}.")
    return claims[0] if claims else None


def _recorded_call(script: str) -> tuple[str, str, list[str]]:
    """(working directory, command, arguments) of the script's first call of one of STAND_INS."""
    with tempfile.TemporaryDirectory() as folder:
        record, output = Path(folder, "record"), Path(folder, "output")
        (Path(folder) / "bin").mkdir()
        for name in STAND_INS:
            stand_in = Path(folder, "bin", name)
            stand_in.write_text(_RECORD.format(record=shlex.quote(str(record))))
            stand_in.chmod(0o755)
        environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ.get('PATH', os.defpath)}"}
        with open(output, "wb") as printed:
            process = subprocess.Popen(
                ["bash", script],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,  # its own process group, which the stand-in kills
            )
        try:
            status = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise UserError(f"{script} started no training within {TIMEOUT} seconds.") from None
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if not record.exists():
            lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-2:]
            said = f": {'; '.join(line.strip() for line in lines)}" if lines else "."
            ended = "without calling any" if status == 0 else f"with status {status} before it called any"
            raise UserError(f"{script} ended {ended} of {', '.join(STAND_INS)}{said}")
        called_in, program, *arguments = record.read_text(encoding="utf-8").split("\0")[:-1]
        return called_in, program, arguments


def _torchrun(script: str, arguments: list[str]) -> tuple[int, str, list[str]]:
    """(number of ranks, command that it starts, the command's arguments)."""
    from torch.distributed.run import get_args_parser

    with _errors_of(f"{script}: torchrun"):
        options = get_args_parser().parse_args(arguments)
    least, _, most = options.nnodes.partition(":")  # for torchrun, 8 and 8:8 are the same
    if most not in ("", least) or not (least.isdecimal() and options.nproc_per_node.isdecimal()):
        raise UserError(
            f"{script}: give torchrun's --nnodes and --nproc-per-node as numbers, not {options.nnodes} and "
            f"{options.nproc_per_node}."
        )
    program = os.path.basename(options.training_script)
    if program not in STAND_INS[1:]:
        raise UserError(f"{script}: torchrun starts {program}, which is not {' or '.join(STAND_INS[1:])}.")
    return int(least) * int(options.nproc_per_node), program, options.training_script_args


def _fairseq_config(script: str, arguments: list[str]) -> DictConfig:
    """The configuration that `fairseq-train` makes from its arguments."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    what = f"{script}: fairseq-train"
    try:
        with _errors_of(what):
            parsed = options.parse_args_and_arch(options.get_training_parser(), arguments)
    except RuntimeError:
        raise UserError(f"{what}: --arch is missing.") from None
    except (ImportError, OSError) as error:
        raise UserError(f"{what}: --user-dir: {error}") from None
    except UserError:
        raise
    except ValueError as error:  # --fp16 with --bf16
        raise UserError(f"{what}: {error}") from None
    _check_names(script, parsed.task, parsed.arch)
    return convert_namespace_to_omegaconf(parsed)


def _config_of_hydra_arguments(script: str, folder: str, arguments: list[str]) -> DictConfig:
    from hydra._internal.utils import get_args_parser

    with _errors_of(f"{script}: fairseq-hydra-train"):
        given = get_args_parser().parse_args(arguments)
    if given.config_dir is None or given.config_name is None:
        raise UserError(f"{script}: give fairseq-hydra-train --config-dir and --config-name.")
    return _hydra_config(Path(folder, given.config_dir), given.config_name.removesuffix(".yaml"), given.overrides)


def _hydra_config(folder: Path, name: str, overrides: list[str]) -> DictConfig:
    """The configuration that `fairseq-hydra-train --config-dir FOLDER --config-name NAME OVERRIDES` trains with."""
    from fairseq.dataclass.initialize import add_defaults, hydra_init
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    if not (folder / f"{name}.yaml").is_file():
        raise UserError(f"{folder / name}.yaml does not exist.")
    hydra_init(name)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder.resolve()), version_base="1.1"):
            config = compose(name, overrides=overrides)
        add_defaults(config)
        resolved = OmegaConf.create(OmegaConf.to_container(config, resolve=True, enum_to_str=True))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        reason = "; ".join(line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip())
        raise UserError(f"{folder / name}.yaml: {reason}") from None
    assert isinstance(resolved, DictConfig)
    return resolved


def _check_names(path: str, task: str | None, model: str | None) -> None:
    for kind, name, known in (("task", task, ["kosmos_multimodal"]), ("model", model, list(ARCHITECTURES))):
        if name not in known:
            raise UserError(f"{path}: the {kind} must be {' or '.join(known)}, not {name}.")


@contextlib.contextmanager
def _errors_of(what: str) -> Iterator[None]:
    """Raise an argparse parser's error as a UserError that begins with `what`, instead of exiting."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            yield
    except SystemExit as exit:
        if not exit.code:
            raise UserError(f"{what} is called for its help, not to train.") from None
        raise UserError(f"{what}: {said.getvalue().strip().splitlines()[-1].partition('error: ')[2]}") from None
