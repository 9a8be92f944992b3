"""Length extrapolation, the reason for xPos: trained at 256 tokens, evaluated at 512 and 1,024.

A small decoder is trained on the quickstart's text, in rows of 256 tokens, with each type of positions; seeds,
initialization, number of updates and data order are the same for all. Held-out text is then read in windows of 256, 512
and 1,024 tokens, and the last 128 targets of each window are scored, so every target has at least half a window of
context. Windows advance by 128 tokens, so all lengths score exactly the same targets, each once. Attention is plain
causal attention at every length, without the blockwise attention of the xPos paper's best results.

The plot shows the loss of the same targets by their position in the window. It falls if the model uses the additional
context, and rises if the model fails beyond the trained length.
"""

import math
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F

from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.decoder import KosmosDecoder
from tests.benchmarks.cores import run_each
from tests.benchmarks.quickstart_text import Text, quickstart_text
from tests.benchmarks.result import Result, Spread

matplotlib.use("Agg")
import matplotlib.pyplot as plt

POSITIONS = {"xpos": "#0072b2", "sinusoidal": "#d55e00"}  # colors of Okabe and Ito
SEEDS = (1, 2)
TRAINED = 256
LENGTHS = (256, 512, 1024)
BLOCK = 128
UPDATES, WARM_UP, LEARNING_RATE, ROWS = 160, 20, 3e-3, 4
PIECES, HELD_OUT = 1000, 0.1


def train(positions: str, text: Text, seed: int) -> KosmosDecoder:
    """A decoder after UPDATES updates of ROWS rows, each starting at a random position of the text."""
    config = KosmosConfig(
        decoder_layers=4,
        decoder_embed_dim=128,
        decoder_ffn_embed_dim=512,
        decoder_attention_heads=4,
        attention_dropout=0.0,
        positions=positions,
    )
    torch.manual_seed(seed)
    decoder = KosmosDecoder(config, text.vocabulary_size, text.pad).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: min((update + 1) / WARM_UP, (UPDATES - update) / (UPDATES - WARM_UP))
    )
    order = torch.Generator().manual_seed(seed)
    for _ in range(UPDATES):
        begins = torch.randint(len(text.train) - TRAINED, (ROWS, 1), generator=order)
        rows = text.train[begins + torch.arange(TRAINED + 1)]
        loss = losses(decoder, rows).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return decoder.eval()


def losses(decoder: KosmosDecoder, rows: torch.Tensor) -> torch.Tensor:
    """rows [B, T + 1] → nll in nats of each next token [B, T]; a row is one document."""
    tokens, targets = rows[:, :-1], rows[:, 1:]
    hidden = decoder(decoder.embed_tokens(tokens), torch.ones_like(tokens))
    return F.cross_entropy(decoder.output_layer(hidden).transpose(1, 2), targets, reduction="none")


@torch.no_grad()
def losses_by_block(decoder: KosmosDecoder, tokens: torch.Tensor) -> torch.Tensor:
    """nll [targets, blocks of the longest window] of the same targets in the 1st, 2nd, … block of a window.

    A window of W tokens has the same predictions as the first W tokens of a longer one, so one pass over windows of the
    longest length is enough.
    """
    longest, blocks = max(LENGTHS), max(LENGTHS) // BLOCK
    windows = tokens.unfold(0, longest + 1, BLOCK)
    nll = torch.cat([losses(decoder, rows) for rows in windows.split(4)]).unflatten(1, (blocks, BLOCK))
    # Block b of window i holds the targets of the text's block i + b. Keep the targets that occur at every b.
    scored = range(blocks - 1, len(windows))
    return torch.stack([torch.stack([nll[k - b, b] for b in range(blocks)], dim=1) for k in scored]).flatten(0, 1)


def plot(curves: dict[str, tuple[torch.Tensor, ...]], path: Path) -> None:
    """Loss by the position in the window: the median of the seeds, in a band from the lowest to the highest."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    middles = [BLOCK * (block + 0.5) for block in range(max(LENGTHS) // BLOCK)]
    axes.axvspan(0, TRAINED, color="#eeeeee", zorder=0)
    axes.text(
        TRAINED / 2, 0.98, "trained", ha="center", va="top", color="#555555", transform=axes.get_xaxis_transform()
    )
    for positions, seeds in curves.items():
        values = torch.stack(seeds)
        axes.plot(middles, values.quantile(0.5, dim=0), marker="o", color=POSITIONS[positions], label=positions)
        axes.fill_between(middles, values.amin(0), values.amax(0), color=POSITIONS[positions], alpha=0.2, linewidth=0)
    axes.set(xlabel="position of the target in the window (tokens)", ylabel="loss of the same targets (nats)")
    axes.set_xlim(0, max(LENGTHS))
    axes.set_xticks([0, *LENGTHS])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="positions", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def measure(positions: str, seed: int, text: Text) -> tuple[torch.Tensor, int]:
    """The mean nll of the targets in each block of the window, and how many targets there are."""
    nll = losses_by_block(train(positions, text, seed), text.valid)
    return nll.mean(dim=0), len(nll)


def run(out: Path) -> Result:
    text = quickstart_text(PIECES, HELD_OUT)
    measured = iter(run_each(measure, [(positions, seed, text) for positions in POSITIONS for seed in SEEDS]))
    curves: dict[str, tuple[torch.Tensor, ...]] = {}
    for positions in POSITIONS:
        curves[positions], (scored, *_) = zip(*(next(measured) for _ in SEEDS), strict=True)
    rows = []
    for positions, seeds in curves.items():
        at = {length: [float(curve[length // BLOCK - 1]) for curve in seeds] for length in LENGTHS}
        perplexities = [Spread(tuple(math.exp(nll) for nll in at[length])) for length in LENGTHS]
        ratio = Spread(tuple(math.exp(b - a) for a, b in zip(at[TRAINED], at[max(LENGTHS)], strict=True)))
        rows.append([positions, *perplexities, ratio])
    plot(curves, out / "length_extrapolation.png")
    return Result(
        title=f"Length extrapolation: perplexity of held-out text, trained at {TRAINED} tokens",
        columns=["positions", *(f"read at {length:,}" for length in LENGTHS), f"{max(LENGTHS):,} / {TRAINED}"],
        rows=rows,
        notes=[
            f"Perplexity per token of the same {scored:,} targets at every length, each in the last {BLOCK} of a "
            f"window ({len(SEEDS)} seeds: median, lowest to highest).",
            f"Decoder of 4 layers of 128, {text.vocabulary_size:,} tokens; {UPDATES} updates of {ROWS} rows of "
            f"{TRAINED} out of {len(text.train):,} tokens of the standard library's help pages.",
        ],
        plots=["length_extrapolation.png"],
    )
