"""The language models of a program: where their calls go, and the engine that carries them."""
