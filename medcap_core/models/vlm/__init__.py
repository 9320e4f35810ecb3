"""Vision-language models of transformers: image tokens among the tokens of a decoder-only language model."""
