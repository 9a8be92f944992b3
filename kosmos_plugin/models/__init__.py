"""The model by itself: vision encoder, resampler and decoder. It knows no task, no checkpoint and no generation."""
