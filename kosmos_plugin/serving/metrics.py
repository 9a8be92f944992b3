"""What the server does, in Prometheus's text format."""

from collections import Counter

from kosmos_plugin.serving.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def prometheus_text(engine: Engine, answers: Counter[tuple[str, int]]) -> str:
    """The page of /metrics.

    Args:
        engine: The engine.
        answers: Answers given, by path and status.
    """
    scheduler, counters, pool = engine.scheduler, engine.counters, engine.scheduler.pool
    lines = ["# HELP kosmos_answers_total Answers, by path and HTTP status.", "# TYPE kosmos_answers_total counter"]
    lines += [
        f'kosmos_answers_total{{path="{path}",status="{status}"}} {count}'
        for (path, status), count in sorted(answers.items())
    ]
    for name, kind, value, about in (
        ("prompt_tokens_total", "counter", counters.prompt_tokens, "Tokens of prompts."),
        ("cached_tokens_total", "counter", scheduler.shared_positions, "Tokens that were in the cache."),
        ("computed_tokens_total", "counter", counters.computed_tokens, "Tokens that went through the decoder."),
        ("generated_tokens_total", "counter", counters.generated_tokens, "Generated tokens."),
        ("steps_total", "counter", counters.steps, "Steps of the model."),
        ("encoded_images_total", "counter", engine.images.encoded, "Images that were encoded."),
        ("cancelled_total", "counter", counters.cancelled, "Requests whose client went away."),
        ("failed_total", "counter", counters.failed, "Requests that failed in the engine."),
        ("preemptions_total", "counter", scheduler.preemptions, "Texts that made room for older ones."),
        ("running_texts", "gauge", len(scheduler.running), "Texts that are being generated."),
        ("unfinished_texts", "gauge", engine.unfinished, "Texts that are being generated or wait."),
        ("cache_blocks", "gauge", pool.num_blocks, "Blocks of the cache of keys and values."),
        ("cache_blocks_in_use", "gauge", pool.in_use, "Blocks of texts that are being generated."),
        ("cache_blocks_shareable", "gauge", pool.cached, "Blocks that a later request may share."),
    ):
        lines += [f"# HELP kosmos_{name} {about}", f"# TYPE kosmos_{name} {kind}", f"kosmos_{name} {value}"]
    return "\n".join(lines) + "\n"
