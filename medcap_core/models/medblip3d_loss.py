"""The contrastive loss of MedBLIP (arXiv 2305.10799): which text belongs to which scan of a batch.

Shape letters: B scans and as many texts, Q queries, C width of the contrastive space.
"""

import torch
from torch import Tensor

LABEL_SMOOTHING = 0.1
LOWEST_TEMPERATURE = 1e-3


def compute_similarity(queries: Tensor, texts: Tensor) -> Tensor:
    """Of each scan to each text, that of the query which likes the text best: (B, Q, C), (B', C) -> (B, B')."""
    return torch.einsum("iqc,jc->ijq", queries, texts).amax(-1)


def compute_contrastive_loss(queries: Tensor, texts: Tensor, same_text: Tensor, temperature: Tensor) -> Tensor:
    """Mean cross-entropy of scan to text and text to scan: () float32.

    `queries` (B, Q, C) and `texts` (B, C) are unit vectors; `same_text` is bool (B, B). Texts that read the same share
    the target. The published code calls them each other's negatives, though with three diagnoses any batch of four
    answers has such a pair, and no model can tell equal words apart.
    """
    logits = compute_similarity(queries, texts) / temperature.clamp(min=LOWEST_TEMPERATURE)
    shared = same_text.float()
    targets = shared / shared.sum(1, keepdim=True)
    targets = (1 - LABEL_SMOOTHING) * targets + LABEL_SMOOTHING / len(targets)
    to_texts = -(targets * logits.log_softmax(1)).sum(1).mean()
    to_scans = -(targets * logits.T.log_softmax(1)).sum(1).mean()  # `same_text` is symmetric, and so are its row sums
    return (to_texts + to_scans) / 2
