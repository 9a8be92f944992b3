"""The paper's settings as values: Tables 17 to 20 and §3, which `examples/kosmos_1` must reproduce.

Each value has a key: the option's path in fairseq's configuration ("optimizer.adam_eps"), or the name of a figure that
`planning.plan.Plan` derives ("layer_parameters", "sequences.text", "weight.Books3"). Sources: "text" is stated in the
paper's text or follows from it; "reported" is from a table that the paper prints as an image; "public relative" is
counted in KOSMOS-2's public code, whose decoder is the same.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperValue:
    """A setting of the paper."""

    where: str  # where the paper states it: "Table 18"
    name: str  # what it is, in words
    expected: object
    source: str  # text | reported | public relative


# Table 20's third column, in percent. The sum is 99.9; weights are relative, so they are used as they are.
TEXT_WEIGHTS = {
    "OpenWebText2": 21.8,
    "CC-2021-04": 17.7,
    "Books3": 16.2,
    "CC-2020-50": 14.7,
    "Pile-CC": 10.6,
    "Realnews": 10.2,
    "Wikipedia": 5.4,
    "BookCorpus2": 1.1,
    "Gutenberg (PG-19)": 1.0,
    "CC-Stories": 1.0,
    "NIH ExPorter": 0.2,
}

_MODEL = {
    "model.decoder_layers": PaperValue("Table 17", "decoder layers", 24, "text"),
    "model.decoder_embed_dim": PaperValue("Table 17", "hidden size", 2048, "text"),
    "model.decoder_ffn_embed_dim": PaperValue("Table 17", "inner size of the feed-forward networks", 8192, "text"),
    "model.decoder_attention_heads": PaperValue("Table 17", "attention heads", 32, "text"),
    "model.activation_fn": PaperValue("Table 17", "activation", "gelu", "reported"),
    "model.dropout": PaperValue("Table 17", "dropout", 0.1, "text"),
    "model.attention_dropout": PaperValue("Table 17", "attention dropout", 0.1, "reported"),
    "model.positions": PaperValue("Table 17", "positions", "xpos", "text"),
    "model.initialization": PaperValue("Table 17", "initialization (xavier is Magneto's)", "xavier", "text"),
    "model.vision_encoder": PaperValue("§3.2", "vision encoder", "clip", "text"),
    "model.vision_model": PaperValue("§3.2", "vision model", "ViT-L-14", "text"),
    "model.trainable_vision_layers": PaperValue("§3.2", "trained layers of the vision model", 1, "text"),
    "vision_features": PaperValue("§3.2", "features of the vision model", 1024, "text"),
    "task.image_size": PaperValue("§3.2", "image size in pixels", 224, "text"),
    "task.image_tokens": PaperValue("Table 17", "soft tokens of an image", 64, "reported"),
    "task.tokens_per_sample": PaperValue("Table 17", "maximum length in tokens", 2048, "reported"),
    "vocabulary_size": PaperValue("Table 17", "vocabulary size", 64_007, "reported"),
    "layer_parameters": PaperValue("§3.2", "parameters of a decoder layer", 50_378_752, "public relative"),
    "decoder_parameters": PaperValue("§3.2", "parameters of the decoder", 1_340_180_480, "public relative"),
}


def _training(table: str, updates: int, peak: float, source: str, sequences: dict[str, int]) -> dict[str, PaperValue]:
    """The values of Table 18 or 19.

    Args:
        table: The table.
        updates: Number of updates.
        peak: Peak learning rate.
        source: Source of the values that the paper's text states for pretraining only.
        sequences: Sequences per update of each stream.
    """
    return {
        "optimization.max_update": PaperValue(table, "updates", updates, source),
        "optimization.lr": PaperValue(table, "peak learning rate", (peak,), source),
        "lr_scheduler._name": PaperValue(table, "learning-rate schedule", "polynomial_decay", source),
        "lr_scheduler.power": PaperValue(table, "power of the decay (1 is linear)", 1.0, source),
        "lr_scheduler.end_learning_rate": PaperValue(table, "last learning rate", 0.0, source),
        "lr_scheduler.total_num_update": PaperValue(table, "updates of the schedule", updates, source),
        "lr_scheduler.warmup_updates": PaperValue(table, "warm-up updates", 375, source),
        "optimizer._name": PaperValue(table, "optimizer", "AdamW", source),
        "optimizer.adam_betas": PaperValue(table, "Adam β", (0.9, 0.98), source),
        "optimizer.adam_eps": PaperValue(table, "Adam ε", 1e-6, "reported"),
        "optimizer.weight_decay": PaperValue(table, "weight decay", 0.01, source),
        **{
            f"sequences.{stream}": PaperValue(table, f"sequences of {stream} per update", number, "reported")
            for stream, number in sequences.items()
        },
    }


_WEIGHTS = {
    f"weight.{corpus}": PaperValue("Table 20", f"weight of {corpus} in percent", weight, "text")
    for corpus, weight in TEXT_WEIGHTS.items()
}

# The runs that a plan's file can claim to be.
RUNS = {
    "pretraining": {
        **_MODEL,
        **_training("Table 18", 300_000, 2e-4, "text", {"text": 256, "captions": 6144, "interleaved": 128}),
        **_WEIGHTS,
    },
    "instruction_tuning": {
        **_MODEL,
        **_training(
            "Table 19",
            10_000,
            2e-5,
            "reported",
            {"text": 32, "captions": 768, "interleaved": 16, "instructions": 256},
        ),
        **_WEIGHTS,
    },
}


@dataclass(frozen=True)
class Difference:
    """Where a training differs from the paper."""

    value: PaperValue
    found: object  # None: not in the training


def differences(run: str, figures: dict[str, object]) -> list[Difference]:
    """Compare a training's figures with those of the paper's run.

    Args:
        run: One of RUNS.
        figures: The training's figures, by key.

    Returns:
        The differences, in the order of the tables. Streams, and corpora of text, that the paper lacks are among them.
    """
    paper = RUNS[run]
    found = [Difference(value, figures.get(key)) for key, value in paper.items() if figures.get(key) != value.expected]
    for key, number in figures.items():
        kind, _, name = key.partition(".")
        if kind in ("sequences", "weight") and key not in paper:
            other = next(value for known, value in paper.items() if known.startswith(f"{kind}."))
            found.append(Difference(PaperValue(other.where, f"{kind} of {name}", None, other.source), number))
    return found
