"""MedBLIP in 3D (Chen et al., arXiv 2305.10799): reports, answers and diagnoses from volumes.

`docs/medblip3d.md` lists where the paper, its published code and this implementation differ.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from medcap_core.config import TrialConfig
from medcap_core.data.records import Record
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, ScanRecord
from medcap_core.data.scans.volumes import VolumeGeometry
from medcap_core.errors import ModelFault
from medcap_core.models.captioner import Captioner
from medcap_core.models.generation import build_generation_config, check_caption_lengths, read_special_tokens
from medcap_core.models.loading.weights import LoadOptions, check_tokenizer, load_whole_network
from medcap_core.models.lora_targets import build_lora_patterns
from medcap_core.models.medblip3d import recording
from medcap_core.models.medblip3d.composing import compose_network, load_tokenizer, refuse_other_parts
from medcap_core.models.medblip3d.network import (
    MedBlip3dConfig,
    MedBlip3dNetwork,
    compute_contrastive_loss,
    compute_similarity,
)
from medcap_core.models.medblip3d.texts import Ids, MedBlip3dTexts, Row, ScanTexts, pad_texts
from medcap_core.models.tokens import IGNORED_LABEL, TokenizedCaptions, sum_token_losses
from medcap_core.models.wordpiece import decode_texts
from medcap_core.runtime.checkpoints import load_pretrained

REPORT_PROMPT = "Report:"


def format_question(question: str) -> str:
    """Format the prompt of the language model, which precedes the image."""
    return f"Question: {question} Answer:"


class MedBlip3dCaptioner(Captioner):
    """A `MedBlip3dNetwork` and its tokenizer. A config's prompt precedes the image of a report."""

    family = "medblip3d"
    cross_attention = "bridge"
    is_large = True
    takes_vision_model = True
    answers_questions = True
    loader = "medcap_core.models.load_captioner"
    encoder_name = "encoder"  # patch embedding and 2D blocks; the layer norm after them belongs to the bridge
    freeze_rules = (
        (r"^encoder\.(patch_embedding\.|position_embedding$)", "patches"),
        (r"^encoder\.", "encoder"),
        (
            r"^(image_norm\.|query_tokens$|text_embeddings\.|qformer\.|temperature$"
            r"|(image|report|answer|language)_projection\.)",
            "bridge",
        ),
        (r"^language_model\.", "decoder"),
    )
    lora_patterns = build_lora_patterns("language_model")
    vision_lora_pattern = r"encoder\.blocks\..*\.(qkv|q_proj|k_proj|v_proj|query|key|value|projection)"

    geometry: VolumeGeometry  # type: ignore[assignment]

    def __init__(self, network: Any, processor: Any) -> None:
        super().__init__(network, processor, int(network.config.volume_size))
        self.num_queries = int(network.config.num_query_tokens)
        self.text_config = network.language_model.config
        self.is_encoder_decoder = bool(self.text_config.is_encoder_decoder)
        if not self.is_encoder_decoder:
            self.num_positions = int(self.text_config.max_position_embeddings) - self.num_queries
        self.special_tokens = read_special_tokens(self.text_config, is_encoder_decoder=self.is_encoder_decoder)
        self.contrastive_weight = 1.0
        self.set_prompt("")

    def _take_images(self, image_size: int) -> None:
        self.geometry = VolumeGeometry(image_size)
        self.register_buffer("pixel_scale", torch.full((1, 1, 1, 1, 1), 1 / 255), persistent=False)
        self.register_buffer("pixel_shift", torch.zeros(1, 1, 1, 1, 1), persistent=False)

    @classmethod
    def load(cls, source: str, options: LoadOptions) -> Self:
        """Load a folder saved by this class, or compose `medblip3d` from its parts; see `Captioner.load`."""
        if source == cls.family:
            network, tokenizer = compose_network(options)
        else:
            refuse_other_parts(source, options)
            network = load_whole_network(MedBlip3dNetwork, source, dtype=options.dtype)
            tokenizer = load_tokenizer(source)
        check_tokenizer(tokenizer, int(network.language_model.config.vocab_size), source)
        # Volumes are processed by their geometry alone.
        return cls(network, SimpleNamespace(tokenizer=tokenizer, save_pretrained=tokenizer.save_pretrained))

    @classmethod
    def read_geometry(cls, source: str, image_size: int | None) -> VolumeGeometry:  # type: ignore[override]
        """Read the cube that a checkpoint takes, see `Captioner.read_geometry`."""
        if source == cls.family:
            return VolumeGeometry(image_size or MedBlip3dConfig().volume_size)
        return VolumeGeometry(int(load_pretrained(MedBlip3dConfig, source).volume_size))

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen 2D blocks and a frozen language model stay in eval mode, without dropout."""
        super().train(mode)
        for part in (self.network.encoder.blocks, self.network.language_model):
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    def set_prompt(self, prompt: str) -> None:
        """Set the prompt of reports, see `Captioner.set_prompt`."""
        self.prompt = prompt
        self.report_prompt = self._tokenize_text(prompt.strip() or REPORT_PROMPT)

    def check(self, config: TrialConfig) -> None:
        """Check the config, see `Captioner.check`; also sets `contrastive_weight`."""
        self.contrastive_weight = config.contrastive_weight
        if config.augment:
            raise ModelFault("augment turns and brightens images in their plane; remove it for a model of volumes.")
        check_caption_lengths(config, len(self.report_prompt), self.num_positions, beside_image=True)
        longest = int(self.network.config.qformer_config["max_position_embeddings"])
        if config.max_caption_tokens > longest:
            raise ModelFault(
                f"max_caption_tokens {config.max_caption_tokens} exceeds the {longest} positions of the MedQFormer; "
                f"lower it to at most {longest}."
            )

    def _build_row(self, prompt: Ids, answer: str, config: TrialConfig) -> Row:
        ids = self._tokenize_text(f" {answer}")  # as in running text for tokenizers like GPT-2's
        return Row(prompt, [*ids[: config.max_caption_tokens - 1], self.special_tokens.end])

    def _tokenize_question(self, question: str) -> Ids:
        return self._tokenize_text(format_question(question))

    def tokenize(self, captions: Sequence[str], config: TrialConfig) -> TokenizedCaptions:
        """Tokenize reports, see `Captioner.tokenize`; their first token stands for prompt and image."""
        assert config.prompt == self.prompt, "set_prompt comes before tokenize"
        answers = [self._build_row(self.report_prompt, caption, config).answer for caption in captions]
        ids = [np.asarray([self._first_id, *answer]) for answer in answers]
        return TokenizedCaptions(ids, 1, self.special_tokens.pad)

    @property
    def _first_id(self) -> int:
        """The token that stands for prompt and image."""
        return self.special_tokens.end if self.special_tokens.start is None else self.special_tokens.start

    def tokenize_records(self, records: Sequence[Record], config: TrialConfig) -> MedBlip3dTexts:
        """Tokenize reports, and the questions with answers of scan records; see `Captioner.tokenize_records`."""
        longest = config.max_caption_tokens
        scans = []
        for record in records:
            questions = record.questions if isinstance(record, ScanRecord) else ()
            asked = format_question(questions[0].text if questions else DIAGNOSIS_QUESTION)
            answered = f"{asked} {questions[0].answer}" if questions else asked
            prompts = [(self._tokenize_question(question.text), question.answer) for question in questions]
            texts = [(self.report_prompt, record.caption), *prompts]
            report, *answers = [self._build_row(prompt, text, config) for prompt, text in texts]
            self._check_lengths(record, [report, *answers])
            scans.append(
                ScanTexts(
                    report_ids=self._tokenize_text(record.caption)[:longest],
                    answer_ids=self._tokenize_text(answered)[:longest],
                    question_length=len(self._tokenize_text(asked)),
                    report=report,
                    questions=tuple(answers),
                )
            )
        return MedBlip3dTexts(scans, self.num_queries, self.special_tokens.pad, self.special_tokens.start)

    def _check_lengths(self, record: Record, rows: Sequence[Row]) -> None:
        for row in rows:
            num_tokens = len(row.prompt) + len(row.answer)
            if self.num_positions is not None and num_tokens > self.num_positions:
                raise ModelFault(
                    f"record {record.id}: '{self.processor.tokenizer.decode(row.prompt)}' with its answer takes "
                    f"{num_tokens} tokens, too many beside {self.num_queries} queries and the "
                    f"{self.num_positions + self.num_queries} positions of the language model; lower "
                    "max_caption_tokens or num_queries, or shorten the question."
                )

    def forward(self, images: Tensor, *texts: Tensor, label_smoothing: float, encoded: bool) -> Tensor:
        """Compute the summed token loss plus both contrastive losses times the number of tokens: () float32.

        Divided by the tokens, this is the mean token loss plus `contrastive_weight` times the contrastive losses, which
        compare the scans of a micro-batch. `label_smoothing` applies to tokens; `texts` is of `MedBlip3dTexts.batch`.
        """
        report_ids, report_mask, answer_ids, answer_mask, pooling_mask, *rows = texts
        ids, mask, starts, scan_of_row, labels, *decoder_ids = rows
        hidden_states = images if encoded else self.encode_images(images)
        query_outputs = self.network.query_scans(hidden_states)
        queries = self.network.project_queries(query_outputs)
        contrast = torch.zeros((), device=query_outputs.device)
        for text_ids, text_mask, text_pooling, projection in (
            (report_ids, report_mask, report_mask, self.network.report_projection),
            (answer_ids, answer_mask, pooling_mask, self.network.answer_projection),
        ):
            projected = self.network.project_texts(text_ids, text_mask, text_pooling, projection)
            same_text = (text_ids[:, None] == text_ids[None]).all(-1)
            contrast = contrast + compute_contrastive_loss(queries, projected, same_text, self.network.temperature)

        embedded = self._embed_rows(query_outputs, ids, starts, scan_of_row)
        logits = self._run_language_model(embedded, mask, *decoder_ids)
        if not self.is_encoder_decoder:
            logits, labels = logits[:, :-1], labels[:, 1:]
        token_loss = sum_token_losses(logits, labels, label_smoothing)
        return token_loss + self.contrastive_weight * contrast * (labels != IGNORED_LABEL).sum()

    def _embed_rows(self, query_outputs: Tensor, ids: Tensor, starts: Tensor, scan_of_row: Tensor) -> Tensor:
        """Embed ids (R, T), with the query outputs (B, Q, H) of each row's scan inserted: (R, T, width of the LM)."""
        tokens = self.network.get_input_embeddings()(ids)
        images = self.network.language_projection(query_outputs).to(tokens.dtype)[scan_of_row]
        offset = torch.arange(ids.shape[1], device=ids.device) - starts[:, None]  # (R, T)
        shifted = images.gather(1, offset.clamp(0, self.num_queries - 1)[..., None].expand(-1, -1, tokens.shape[-1]))
        is_image = (offset >= 0) & (offset < self.num_queries)
        return torch.where(is_image[..., None], shifted, tokens)

    def _run_language_model(self, embedded: Tensor, mask: Tensor, decoder_ids: Tensor | None = None) -> Tensor:
        inputs = {"inputs_embeds": embedded, "attention_mask": mask}
        inputs |= {} if decoder_ids is None else {"decoder_input_ids": decoder_ids}
        logits: Tensor = self.network.language_model(**inputs, use_cache=False).logits
        return logits

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode uint8 volumes (B, 1, S, S, S), see `Captioner.encode_images`."""
        hidden_states: Tensor = self.network.encoder(self.scale_pixels(pixels))
        return hidden_states

    def embed_prompt(self, query_outputs: Tensor, prompt: Ids) -> Tensor:
        """Embed a prompt followed by the query outputs: (B, Q, H) -> (B, P + Q, width of the LM)."""
        ids = torch.tensor([prompt], device=query_outputs.device).expand(len(query_outputs), -1)
        tokens = self.network.get_input_embeddings()(ids)
        return torch.cat([tokens, self.network.language_projection(query_outputs).to(tokens.dtype)], dim=1)

    def compute_logits(self, encoder_hidden_states: Tensor, input_ids: Tensor) -> Tensor:
        """Compute the logits of reports, whose first token stands for prompt and image."""
        embedded = self.embed_prompt(self.network.query_scans(encoder_hidden_states), self.report_prompt)
        if not self.is_encoder_decoder:
            embedded = torch.cat([embedded, self.network.get_input_embeddings()(input_ids[:, 1:])], dim=1)
        mask = embedded.new_ones(embedded.shape[:2], dtype=torch.int64)
        logits = self._run_language_model(embedded, mask, input_ids if self.is_encoder_decoder else None)
        return logits[:, -input_ids.shape[1] :]

    def generate_ids(self, encoder_hidden_states: Tensor, config: TrialConfig) -> tuple[Tensor, int]:
        """See `Captioner.generate_ids`; the first token stands for prompt and image, as in `tokenize`."""
        assert config.prompt == self.prompt, "set_prompt comes before generate_ids"
        ids = self._write_ids(self.network.query_scans(encoder_hidden_states), self.report_prompt, config)
        return nn.functional.pad(ids, (1, 0), value=self._first_id), 1

    def answer(self, encoder_hidden_states: Tensor, questions: Sequence[str], config: TrialConfig) -> list[str]:
        """Generate the answer to one question on each scan by beam search with the settings of `config`."""
        query_outputs = self.network.query_scans(encoder_hidden_states)
        answers = [""] * len(questions)
        for question in dict.fromkeys(questions):  # equal prompts need no padding
            rows = [row for row, asked in enumerate(questions) if asked == question]
            ids = self._write_ids(query_outputs[rows], self._tokenize_question(question), config)
            for row, text in zip(rows, decode_texts(self.processor.tokenizer, ids, config), strict=True):
                answers[row] = text
        return answers

    def format_question(self, question: str) -> str:
        """See `Captioner.format_question`."""
        return format_question(question)

    def _write_ids(self, query_outputs: Tensor, prompt: Ids, config: TrialConfig) -> Tensor:
        """Generate ids (B, T) after one prompt by beam search from query outputs (B, Q, H), padded after the end."""
        embedded = self.embed_prompt(query_outputs, prompt)
        generated: Tensor = self.network.language_model.generate(
            inputs_embeds=embedded,
            attention_mask=embedded.new_ones(embedded.shape[:2], dtype=torch.int64),
            generation_config=build_generation_config(config, self.special_tokens),
        )
        return generated[:, 1:] if self.is_encoder_decoder else generated

    def compute_class_scores(self, encoder_hidden_states: Tensor, question: str, answers: Sequence[str]) -> Tensor:
        """Compute the similarity of each scan to a question with each of its possible answers: (B, number of answers).

        This is the similarity of the contrastive loss, the maximum over the queries.
        """
        queries = self.network.project_queries(self.network.query_scans(encoder_hidden_states))
        texts = [self._tokenize_text(f"{format_question(question)} {answer}") for answer in answers]
        ids, mask = (tensor.to(queries.device) for tensor in pad_texts(texts, self.special_tokens.pad))
        pooling_mask = mask.clone()
        pooling_mask[:, : len(self._tokenize_question(question))] = 0
        projected = self.network.project_texts(ids, mask, pooling_mask, self.network.answer_projection)
        return compute_similarity(queries, projected)

    def build_recording_copy(self) -> Self:
        """See `Captioner.build_recording_copy`; gradients of the queries put the bridge's attention into the graph."""
        recorder = super().build_recording_copy()
        recorder.network.query_tokens.requires_grad_(True)
        for module in recorder.network.encoder.modules():
            if hasattr(module, "config"):
                module.config._attn_implementation = "eager"
        return recorder

    record_attention = recording.record_attention
