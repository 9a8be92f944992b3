"""An OpenAI-compatible server over an engine that generates many requests at once."""
