"""What decides the captions of a model that nobody has trained."""

DECIDING_FIELDS = (
    "image_size",
    "patch_size",
    "num_queries",
    "qformer_layers",
    "quantization",
    "weights_dtype",
    "prompt",
    "num_beams",
    "max_new_tokens",
    "min_new_tokens",
    "length_penalty",
    "repetition_penalty",
)
"""Of a config: what decides an untrained captioner's captions beside weights, precision and images."""
