"""Do the first updates of a deep model stay bounded, with and without Magneto's gain?

A decoder of width 64 is trained on the quickstart's text from its initialization, without warm-up, clipping or dropout.
The four models start from the same random draws:

    Magneto     sub-LayerNorm, Xavier with the gain √(ln 2N) on value, output and feed-forward projections
    gain 1      the same model without the gain
    Pre-LN      without sub-LayerNorm's two extra LayerNorms, and without the gain
    Post-LN     the original Transformer's order, likewise

Every update is measured: the largest root mean square of the residual stream over the layers; the norm of the whole
gradient, and the largest norm of one layer; the loss; and how far the update moved the model, as the root mean square
change of the logits of fixed rows, which Magneto's theory bounds for any depth. There are eight updates at 24 and 48
layers, with a usual and an aggressive constant learning rate, and one small update at 6 to 96 layers.
"""

import math
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
import torch.nn.functional as F
from torch import nn
from torchscale.architecture.decoder import Decoder

from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.decoder import KosmosDecoder
from tests.benchmarks.cores import run_each
from tests.benchmarks.quickstart_text import Text, quickstart_text
from tests.benchmarks.result import Result, Spread

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LAYERS = (24, 48)
LEARNING_RATES = {"usual": 1e-3, "aggressive": 1e-2}
UPDATES = 8
DEPTHS = (6, 12, 24, 48, 96)
SMALL_LEARNING_RATE = 1e-4
SEEDS = (1, 2)
ROWS, LENGTH = 4, 64
PIECES, HELD_OUT = 1000, 0.05
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito, one per variant


class Update(NamedTuple):
    """The measurements of an update."""

    loss: float
    stream: float  # largest root mean square of the residual stream over the layers
    gradient: float  # norm of the whole gradient
    layer_gradient: float  # largest norm of one layer
    moved: float  # root mean square change of the fixed rows' logits


# ---- The models ----


def magneto(decoder: Decoder) -> None:
    """Unchanged."""


def without_gain(decoder: Decoder) -> None:
    """The same random draws divided by the gain."""
    gain = math.sqrt(math.log(2 * decoder.num_layers))
    with torch.no_grad():
        for name, parameter in decoder.layers.named_parameters():
            if name.endswith(("v_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")):
                parameter /= gain


def pre_ln(decoder: Decoder) -> None:
    """Without the two LayerNorms that Magneto adds to a layer, and without the gain."""
    without_gain(decoder)
    for layer in decoder.layers:
        layer.self_attn.inner_attn_ln = layer.ffn.ffn_layernorm = None


def post_ln(decoder: Decoder) -> None:
    """The original Transformer's layer: LayerNorm after each residual sum, none before or at the end."""
    pre_ln(decoder)
    decoder.layer_norm = nn.Identity()
    for layer in decoder.layers:
        layer.normalize_before = False


VARIANTS = {"Magneto": magneto, "gain 1": without_gain, "Pre-LN": pre_ln, "Post-LN": post_ln}


def build(layers: int, variant: str, seed: int, text: Text) -> KosmosDecoder:
    config = KosmosConfig(
        decoder_layers=layers,
        decoder_embed_dim=64,
        decoder_ffn_embed_dim=256,
        decoder_attention_heads=4,
        dropout=0.0,
        attention_dropout=0.0,
    )
    torch.manual_seed(seed)
    decoder = KosmosDecoder(config, text.vocabulary_size, text.pad)
    VARIANTS[variant](decoder)
    return decoder


# ---- Measuring ----


def logits_of(decoder: KosmosDecoder, tokens: torch.Tensor) -> torch.Tensor:
    hidden = decoder(decoder.embed_tokens(tokens), torch.ones_like(tokens))
    return decoder.output_layer(hidden)


def train(layers: int, variant: str, learning_rate: float, updates: int, seed: int, text: Text) -> list[Update]:
    """The first updates of one model; all models of a seed see the same rows in the same order."""
    decoder = build(layers, variant, seed, text)
    optimizer = torch.optim.AdamW(
        decoder.parameters(), learning_rate, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, foreach=True
    )
    stream: list[torch.Tensor] = []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda module, given, made: stream.append(made[0].detach().square().mean().sqrt()))
    order = torch.Generator().manual_seed(seed)
    fixed = text.valid[: 2 * LENGTH].view(2, LENGTH)
    with torch.no_grad():
        before = logits_of(decoder, fixed)
    measured = []
    for _ in range(updates):
        begins = torch.randint(len(text.train) - LENGTH - 1, (ROWS, 1), generator=order)
        rows = text.train[begins + torch.arange(LENGTH + 1)]
        stream.clear()
        loss = F.cross_entropy(logits_of(decoder, rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        largest = max(stream)
        optimizer.zero_grad()
        loss.backward()
        norms = [gradient_norm(layer) for layer in decoder.layers]
        whole = gradient_norm(decoder)
        optimizer.step()
        with torch.no_grad():
            after = logits_of(decoder, fixed)
        moved = (after - before).square().mean().sqrt()
        before = after
        measured.append(Update(*(float(x) for x in (loss.detach(), largest, whole, max(norms), moved))))
    return measured


def gradient_norm(module: nn.Module) -> torch.Tensor:
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.stack(torch._foreach_norm(gradients)).norm()


# ---- Tables and plots ----

Runs = list[list[Update]]  # one per seed


def over_seeds(runs: Runs, what) -> Spread:
    return Spread(tuple(what(run) for run in runs))


def table_row(layers: int, rate: str, variant: str, runs: Runs) -> list:
    return [
        layers,
        f"{rate}, {LEARNING_RATES[rate]:g}",
        variant,
        over_seeds(runs, lambda run: run[0].stream),
        over_seeds(runs, lambda run: max(u.stream for u in run) / run[0].stream),
        over_seeds(runs, lambda run: max(u.gradient for u in run)),
        over_seeds(runs, lambda run: max(u.layer_gradient for u in run)),
        over_seeds(runs, lambda run: run[0].moved),
        over_seeds(runs, lambda run: run[-1].loss),
    ]


def draw(axes: plt.Axes, x, runs: list[list[float]], number: int) -> None:
    """A variant's line: the median of the seeds, in a band from the lowest to the highest."""
    values = torch.tensor(runs)
    axes.plot(x, values.quantile(0.5, dim=0), color=COLORS[number], label=list(VARIANTS)[number])
    axes.fill_between(x, values.amin(0), values.amax(0), color=COLORS[number], alpha=0.2, linewidth=0)


def plot_updates(measured: dict[tuple, Runs], path: Path) -> None:
    """The deepest models, update by update."""
    panels = (
        ("residual stream, largest RMS\n(times that at the start)", lambda u, run: u.stream / run[0].stream, "log"),
        ("largest gradient norm of a layer", lambda u, run: u.layer_gradient, "log"),
        ("loss (nats)", lambda u, run: u.loss, "linear"),
    )
    figure, grid = plt.subplots(2, 3, figsize=(10, 5.6), sharex=True, sharey="col", layout="constrained")
    for row, (rate, value) in zip(grid, LEARNING_RATES.items(), strict=True):
        row[0].set_ylabel(f"{rate}, {value:g}", fontweight="bold")
        for axes, (_, what, scale) in zip(row, panels, strict=True):
            for number, variant in enumerate(VARIANTS):
                runs = measured[max(LAYERS), variant, value]
                draw(axes, range(1, UPDATES + 1), [[what(u, run) for u in run] for run in runs], number)
            axes.set_yscale(scale)
            axes.set_xticks([1, *range(5, UPDATES + 1, 5)])
            axes.spines[["top", "right"]].set_visible(False)
    for axes, (name, *_) in zip(grid[0], panels, strict=True):
        axes.set_title(name, fontsize="medium")
    for axes in grid[1]:
        axes.set_xlabel("update")
    grid[0][0].legend(frameon=False)
    figure.suptitle(f"{max(LAYERS)} layers, rows by learning rate", fontsize="medium")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_depth(measured: dict[tuple, Runs], path: Path) -> None:
    """How far one small update moves models of different depth."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for number, variant in enumerate(VARIANTS):
        by_depth = [measured[depth, variant, SMALL_LEARNING_RATE] for depth in DEPTHS]
        draw(axes, DEPTHS, [[run[0].moved for run in runs] for runs in zip(*by_depth, strict=True)], number)
    axes.set(xscale="log", yscale="log", xlabel="layers", ylabel="RMS change of the logits")
    axes.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
    axes.minorticks_off()
    axes.set_title(f"the first update at learning rate {SMALL_LEARNING_RATE:g}", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def depth_note(measured: dict[tuple, Runs]) -> str:
    ends = min(DEPTHS), max(DEPTHS)
    moved = {
        variant: [over_seeds(measured[depth, variant, SMALL_LEARNING_RATE], lambda run: run[0].moved) for depth in ends]
        for variant in VARIANTS
    }
    return (
        f"One first update at learning rate {SMALL_LEARNING_RATE:g} moves the logits, at {ends[0]} and at {ends[1]} "
        "layers, by " + "; ".join(f"{variant} {shallow} and {deep}" for variant, (shallow, deep) in moved.items()) + "."
    )


def run(out: Path) -> Result:
    text = quickstart_text(PIECES, HELD_OUT)
    settings = [
        (layers, variant, rate) for layers in LAYERS for rate in LEARNING_RATES.values() for variant in VARIANTS
    ]
    depths = [(depth, variant, SMALL_LEARNING_RATE) for depth in DEPTHS for variant in VARIANTS]
    jobs = [(*setting, UPDATES) for setting in settings] + [(*setting, 1) for setting in depths]
    done = iter(run_each(train, [(*job, seed, text) for job in jobs for seed in SEEDS]))
    measured = {setting: [next(done) for _ in SEEDS] for setting in settings + depths}
    plot_updates(measured, out / "magneto_updates.png")
    plot_depth(measured, out / "magneto_depth.png")
    return Result(
        title=f"Magneto: the first {UPDATES} updates of deep decoders",
        columns=[
            "layers",
            "learning rate",
            "model",
            "initial residual stream (RMS)",
            "largest growth factor",
            "largest gradient norm",
            "largest of one layer",
            "change of logits by the first update",
            "final loss (nats)",
        ],
        rows=[
            table_row(layers, rate, variant, measured[layers, variant, value])
            for layers in LAYERS
            for rate, value in LEARNING_RATES.items()
            for variant in VARIANTS
        ],
        notes=[
            f"Width 64, {len(SEEDS)} seeds (median, lowest to highest), {ROWS * LENGTH} tokens per update, AdamW with "
            "β = (0.9, 0.98), no warm-up, no clipping.",
            depth_note(measured),
        ],
        plots=["magneto_updates.png", "magneto_depth.png"],
    )
