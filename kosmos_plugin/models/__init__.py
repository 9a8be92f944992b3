"""Vision encoder, resampler, decoder and the architectures made of them."""

from fairseq.models import register_model

from kosmos_plugin.models.config import ARCHITECTURES
from kosmos_plugin.models.kosmos import KosmosModel


def register() -> None:
    """Register every architecture as a fairseq model of its own, for `--arch NAME` and for Hydra's `model: NAME`."""
    for name, config in ARCHITECTURES.items():
        class_name = "".join(word.capitalize() for word in name.split("_")) + "Model"
        register_model(name, dataclass=config)(type(class_name, (KosmosModel,), {"__doc__": config.__doc__}))
