"""The network of MedBLIP in 3D (Chen et al., arXiv 2305.10799), composed from transformers' parts.

One 3D convolution embeds the cubic patches of a volume; the blocks of a pre-trained 2D encoder transform them; learned
queries attend to the result in a Q-Former; a language model reads the projected query outputs.

Shape letters: B scans, S voxels a side, P voxels a side of a patch, N tokens of a scan (a class token, then (S / P)^3
patches, x slowest), D encoder width, Q queries, H width of the Q-Former, C width of the contrastive space, T tokens of
a text.
"""

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

LABEL_SMOOTHING, LOWEST_TEMPERATURE = 0.1, 1e-3


def compute_similarity(queries: Tensor, texts: Tensor) -> Tensor:
    """Compute the similarity of each scan to each text, maximal over its queries: (B, Q, C), (B', C) -> (B, B')."""
    return torch.einsum("iqc,jc->ijq", queries, texts).amax(-1)


def compute_contrastive_loss(queries: Tensor, texts: Tensor, same_text: Tensor, temperature: Tensor) -> Tensor:
    """Compute the mean cross-entropy of scan to text and text to scan: () float32.

    `queries` (B, Q, C) and `texts` (B, C) are unit vectors; `same_text` is bool (B, B). Equal texts share the target;
    in the published code they are negatives of each other, though three diagnoses repeat in any four answers.
    """
    logits = compute_similarity(queries, texts) / temperature.clamp(min=LOWEST_TEMPERATURE)
    shared = same_text.float()
    targets = shared / shared.sum(1, keepdim=True)
    targets = (1 - LABEL_SMOOTHING) * targets + LABEL_SMOOTHING / len(targets)
    to_texts = -(targets * logits.log_softmax(1)).sum(1).mean()
    to_scans = -(targets * logits.T.log_softmax(1)).sum(1).mean()  # `same_text` is symmetric, and so are its row sums
    return (to_texts + to_scans) / 2


MODEL_TYPE = "medblip_3d"

VISION_TOWERS: dict[str, tuple[type[transformers.PretrainedConfig], Any]] = {
    "blip_vision_model": (transformers.BlipVisionConfig, transformers.BlipVisionModel),
    "blip_2_vision_model": (transformers.Blip2VisionConfig, transformers.Blip2VisionModel),
    "vit": (transformers.ViTConfig, transformers.ViTModel),
}
"""`model_type` of a supported 2D encoder -> its config class and model class."""


class MedBlip3dConfig(transformers.PretrainedConfig):  # type: ignore[no-untyped-call]
    """The config.json of a checkpoint; `vision_config` is that of the 2D encoder whose blocks are used."""

    model_type = MODEL_TYPE

    def __init__(
        self,
        vision_config: dict[str, Any] | None = None,
        qformer_config: dict[str, Any] | None = None,
        text_config: dict[str, Any] | None = None,
        volume_size: int = 224,
        patch_size: int = 32,
        num_query_tokens: int = 32,
        contrastive_width: int = 256,
        **other: Any,
    ) -> None:
        self.vision_config, self.text_config = vision_config or {}, text_config or {}
        self.qformer_config = qformer_config or {}
        self.volume_size, self.patch_size = volume_size, patch_size
        self.num_query_tokens, self.contrastive_width = num_query_tokens, contrastive_width
        super().__init__(**other)

    @property
    def num_patches(self) -> int:
        """Number of patches of a volume."""
        return (self.volume_size // self.patch_size) ** 3


class VolumeEncoder(nn.Module):
    """3D patch embedding and positions, then the class token and blocks of a pre-trained 2D encoder."""

    def __init__(self, config: MedBlip3dConfig, vision_tower: Any) -> None:
        super().__init__()
        self.config = vision_tower.config
        width, patch = self.config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv3d(1, width, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Parameter(0.02 * torch.randn(1, config.num_patches + 1, width))
        embeddings = vision_tower.embeddings
        token: Tensor = embeddings.cls_token if hasattr(embeddings, "cls_token") else embeddings.class_embedding
        self.class_embedding = nn.Parameter(token.detach().clone().view(1, 1, width))
        self.blocks = find_blocks(vision_tower)

    def forward(self, volumes: Tensor) -> Tensor:
        """Encode volumes (B, 1, S, S, S) in [0, 1] to (B, N, D), without a final norm."""
        patches = self.patch_embedding(volumes).flatten(2).transpose(1, 2)  # (B, N - 1, D)
        classes = self.class_embedding.expand(len(volumes), -1, -1).to(patches.dtype)
        hidden_states: Tensor = torch.cat([classes, patches], dim=1) + self.position_embedding.to(patches.dtype)
        for block in self.blocks:
            hidden_states = block(hidden_states, attention_mask=None)
        return hidden_states


class MedBlip3dNetwork(transformers.PreTrainedModel):  # type: ignore[no-untyped-call]
    """Encoder, layer norm, MedQFormer, projections and language model; losses are in `MedBlip3dCaptioner`."""

    config_class = MedBlip3dConfig
    base_model_prefix = "medblip_3d"
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = [  # noqa: RUF012 - transformers' own name and type
        "qformer", "query_tokens", "text_embeddings", "image_norm", "image_projection", "report_projection",
        "answer_projection", "language_projection", "temperature", "patch_embedding", "position_embedding",
    ]  # fmt: skip

    def __init__(self, config: MedBlip3dConfig, vision_tower: Any = None, language_model: Any = None) -> None:
        """Build the network; a missing `vision_tower` or `language_model` is built from the config."""
        super().__init__(config)
        if vision_tower is None:
            config_class, tower_class = VISION_TOWERS[config.vision_config["model_type"]]
            vision_tower = tower_class(config_class.from_dict(config.vision_config))
        if language_model is None:
            values = dict(config.text_config)
            text_config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
            model_class: Any = transformers.AutoModelForCausalLM
            if text_config.is_encoder_decoder:
                model_class = transformers.AutoModelForSeq2SeqLM
            language_model = model_class.from_config(text_config, trust_remote_code=False)
        query_width = config.qformer_config["hidden_size"]
        self.encoder = VolumeEncoder(config, vision_tower)
        self.image_norm = nn.LayerNorm(vision_tower.config.hidden_size, eps=vision_tower.config.layer_norm_eps)
        self.query_tokens = nn.Parameter(0.02 * torch.randn(1, config.num_query_tokens, query_width))
        qformer_config = transformers.Blip2QFormerConfig(**config.qformer_config)
        self.text_embeddings = Blip2TextEmbeddings(qformer_config)  # type: ignore[no-untyped-call]
        self.qformer = transformers.Blip2QFormerModel(qformer_config)
        self.image_projection = nn.Linear(query_width, config.contrastive_width)
        self.report_projection = nn.Linear(query_width, config.contrastive_width)
        self.answer_projection = nn.Linear(query_width, config.contrastive_width)
        self.temperature = nn.Parameter(torch.tensor([0.07]))  # (1,), since FSDP2 shards no scalar
        self.language_projection = nn.Linear(query_width, language_model.get_input_embeddings().embedding_dim)
        self.language_model = language_model
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise new weights; transformers skips the parts it marks as pre-trained."""
        if isinstance(module, nn.Linear | nn.Conv3d | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.qformer_config["initializer_range"])
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """Return the input embeddings of the language model."""
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def query_scans(self, encoder_hidden_states: Tensor) -> Tensor:
        """Compute the query outputs (B, Q, H) for encoder hidden states (B, N, D)."""
        query_outputs: Tensor = self.qformer(
            query_embeds=self.query_tokens.expand(len(encoder_hidden_states), -1, -1),
            encoder_hidden_states=self.image_norm(encoder_hidden_states),
        ).last_hidden_state
        return query_outputs

    def project_queries(self, query_outputs: Tensor) -> Tensor:
        """Project query outputs (B, Q, H) to unit vectors of the contrastive space, (B, Q, C) float32."""
        return normalize(self.image_projection(query_outputs).float(), dim=-1)

    def project_texts(self, input_ids: Tensor, mask: Tensor, pooling_mask: Tensor, projection: nn.Module) -> Tensor:
        """Project texts (B, T), without a scan, to unit vectors of the contrastive space: (B, C) float32.

        `mask` is 1 at tokens, `pooling_mask` 1 at those whose outputs are averaged: all of a report, the answer of a
        question. The published code takes the output at the first token, which belongs to the question and is the same
        in all texts; its Q-Former, pre-trained as BERT, can still separate them there, a new one cannot.
        """
        embedded = self.text_embeddings(input_ids=input_ids)
        outputs = self.qformer(query_embeds=embedded, query_length=0, attention_mask=mask).last_hidden_state
        shares = (pooling_mask / pooling_mask.sum(1, keepdim=True)).to(outputs.dtype)
        return normalize(projection(torch.einsum("bth,bt->bh", outputs, shares)).float(), dim=-1)


def find_blocks(vision_tower: Any) -> nn.ModuleList:
    """Return the transformer blocks of a 2D encoder."""
    blocks = vision_tower.layers if hasattr(vision_tower, "layers") else vision_tower.encoder.layers
    assert isinstance(blocks, nn.ModuleList)
    return blocks
