"""ViT-GPT2."""
