"""A stand-in for an LM provider: OpenAI-compatible, with latency, errors and answers that can be set while it runs."""
