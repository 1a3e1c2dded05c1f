"""The method in plain PyTorch on diffusers' models: what the engine's trainer is compared with.

A subject is, for each of S stages of the noise schedule, one vector a class token for the attention's keys (P_K) and
one for its values (P_V). They replace the class word's token embeddings in front of the frozen text encoder. What is
learnt is a small self-attention module that makes all of them, or the vectors themselves.

Beside the base model's own loss, the cross-attention maps of the subject's prompt are held near those that the class
word gives for the same queries.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from models import Parts
from torch import Tensor, nn
from transformers import CLIPTextModel


@dataclass
class CrossAttentionContext:
    """What the U-Net's cross-attention layers are given, and the attention loss that they leave behind."""

    keys: Tensor | None = None  # [B, L, C], text states that K is projected from
    values: Tensor | None = None
    reference: Tensor | None = None  # the class word's text states; None: no attention loss
    levels: frozenset[int] = frozenset()  # where the loss is taken
    token_weights: Tensor | None = None  # [L]
    losses: list[Tensor] = field(default_factory=list)  # one [B] tensor a layer


class SplitCrossAttention:
    """Cross-attention with K and V from different text states.

    A_t = softmax(Q K^T / sqrt(d)) with K from the target's keys, A_r with K from the reference and the same Q, and the
    layer's loss is the sum over pixels and tokens of (A_t - A_r)^2, averaged over the heads. A_r is an anchor: no
    gradient flows into it.
    """

    def __init__(self, context: CrossAttentionContext, level: int):
        self.context = context
        self.level = level

    def __call__(self, attention, hidden_states: Tensor, *_, **__) -> Tensor:
        context = self.context
        queries = self._heads(attention, attention.to_q(hidden_states))
        keys = self._heads(attention, attention.to_k(context.keys))
        values = self._heads(attention, attention.to_v(context.values))
        target = self._map(queries, keys)
        if context.reference is not None and self.level in context.levels:
            with torch.no_grad():
                anchor = self._map(queries, self._heads(attention, attention.to_k(context.reference)))
            difference = (target - anchor) ** 2
            if context.token_weights is not None:
                difference = difference * context.token_weights
            context.losses.append(difference.sum((-2, -1)).mean(1))
        output = (target @ values).transpose(1, 2).flatten(2)
        for layer in attention.to_out:
            output = layer(output)
        return output

    @staticmethod
    def _heads(attention, states: Tensor) -> Tensor:
        return states.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

    @staticmethod
    def _map(queries: Tensor, keys: Tensor) -> Tensor:
        return (queries @ keys.transpose(-2, -1) / queries.shape[-1] ** 0.5).softmax(-1)


def split_cross_attention(unet: UNet2DConditionModel) -> CrossAttentionContext:
    """Puts SplitCrossAttention into every cross-attention layer of a U-Net; returns what they all share."""
    context = CrossAttentionContext()
    coarsest = len(unet.config.block_out_channels) - 1
    processors = dict(unet.attn_processors)
    for name in processors:
        if ".attn2." in name:
            block, index = name.split(".")[:2]
            level = {"down_blocks": lambda: int(index), "up_blocks": lambda: coarsest - int(index)}.get(
                block, lambda: coarsest
            )()
            processors[name] = SplitCrossAttention(context, level)
    unet.set_attn_processor(processors)
    return context


class SelfAttention(nn.Module):
    """Multi-head attention over [tokens, width]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(0, 1) for layer in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        return self.out((weights @ v).transpose(0, 1).flatten(1))


class StageTokens(nn.Module):
    """The self-attention module that makes all vectors of a subject; at first they are the class word's.

    One token for each (K before V, stage, class token): the class token's embedding, scaled to unit deviation, plus a
    learnt position; two self-attention layers and a GEGLU feed-forward, all with norms in front, and a linear layer
    that starts at zero.
    """

    def __init__(self, embedding: Tensor, gain: float, stages: int, split: bool):
        super().__init__()
        tokens, width = embedding.shape
        heads = max(heads for heads in range(1, max(1, width // 64) + 1) if width % heads == 0)
        self.shape = (2 if split else 1, stages, tokens, width)
        self.embedding, self.gain = embedding, gain
        self.position = nn.Parameter(torch.randn(self.shape[0] * stages * tokens, width) * 0.02)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))
        self.attn1, self.attn2 = SelfAttention(width, heads), SelfAttention(width, heads)
        self.ff1, self.ff2 = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self) -> tuple[Tensor, Tensor]:
        """P_K and P_V, [stages, tokens, width] each."""
        embedding = self.embedding.expand(self.shape)
        x = (embedding / self.embedding.std()).flatten(0, 2) + self.position
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x))
        a, b = self.ff1(self.norm3(x)).chunk(2, -1)
        x = x + self.ff2(a * F.gelu(b))
        vectors = embedding + self.gain * self.out(self.norm4(x)).view(self.shape)
        return vectors[0], vectors[-1]


class StageVectors(nn.Module):
    """The vectors themselves, as differences from the class word in units of the token embeddings' deviation: one that all
    stages, keys and values have in common, plus one for each."""

    def __init__(self, embedding: Tensor, gain: float, stages: int, split: bool):
        super().__init__()
        self.embedding, self.gain = embedding, gain
        if split or stages > 1:
            self.base = nn.Parameter(torch.zeros(embedding.shape))
        self.k = nn.Parameter(torch.zeros(stages, *embedding.shape))
        if split:
            self.v = nn.Parameter(torch.zeros(stages, *embedding.shape))

    def forward(self) -> tuple[Tensor, Tensor]:
        base = self.embedding + self.gain * self.base if hasattr(self, "base") else self.embedding
        keys = base + self.gain * self.k
        return keys, base + self.gain * self.v if hasattr(self, "v") else keys


# Vectors [n, d] and the position in the prompt from which on they stand.
Slots = list[tuple[int, Tensor]]


def encode(encoder: CLIPTextModel, ids: Tensor, slots: list[Slots] | None = None):
    """What transformers gives; each prompt's slots replace token embeddings in front of the encoder."""

    def inject(_module, _inputs, embeddings: Tensor) -> Tensor:
        rows = []
        for row, inserted in zip(embeddings, slots, strict=True):
            for position, vectors in inserted:
                row = torch.cat([row[:position], vectors, row[position + len(vectors) :]])
            rows.append(row)
        return torch.stack(rows)

    if slots is None:
        return encoder(ids, output_hidden_states=True)
    hook = encoder.get_input_embeddings().register_forward_hook(inject)
    try:
        return encoder(ids, output_hidden_states=True)
    finally:
        hook.remove()


def text_states(parts: Parts, ids: list[Tensor], slots: list[list[Slots]] | None = None) -> Tensor:
    """States [B, L, C]; ids [B, L] and slots are one for each text encoder, whose states stand side by side."""
    encoded = [
        encode(encoder, ids[index], None if slots is None else slots[index])
        for index, encoder in enumerate(parts.text_encoders)
    ]
    if parts.text_encoder_2 is None:
        return encoded[0].last_hidden_state
    # SDXL takes the states before the last layer, without the final norm.
    return torch.cat([one.hidden_states[-2] for one in encoded], -1)


def added_conditions(parts: Parts, ids: list[Tensor], sizes: list[float]) -> dict:
    """SDXL's: the pooled state of prompts without any subject, and six sizes; empty for other models."""
    if parts.text_encoder_2 is None:
        return {}
    pooled = parts.text_encoder_2(ids[1]).text_embeds
    return {"text_embeds": pooled, "time_ids": torch.tensor(sizes).expand(len(pooled), -1)}


@dataclass(frozen=True)
class Options:
    """What is trained and how; the names are those of the engine's LearnRequest."""

    ids: list[list[list[int]]]  # for each text encoder one padded prompt a template, with the class word
    positions: list[int]  # where the class word begins in each
    class_tokens: int = 1
    stages: int = 5
    split: bool = True
    parametrization: str = "attention"
    attention_weight: float = 0.003
    levels: tuple[int, ...] = ()  # empty: all
    token_weights: tuple[float, ...] = ()
    mask: Tensor | None = None  # [h, w]
    time_ids: tuple[float, ...] = ()  # SDXL's six sizes


@dataclass(frozen=True)
class Draws:
    """What a training step draws at random."""

    timesteps: Tensor  # [B], whole numbers
    templates: Tensor  # [B]
    latents: Tensor  # [B, 4, h, w], scaled
    noise: Tensor


@dataclass(frozen=True)
class Losses:
    total: Tensor
    reconstruction: Tensor
    attention: Tensor  # not weighted


class Training:
    """One model, one class word, and what is learnt about it: a module for each text encoder."""

    def __init__(self, parts: Parts, scheduler, options: Options):
        self.parts, self.scheduler, self.options = parts, scheduler, options
        self.context = split_cross_attention(parts.unet)
        levels = len(parts.unet.config.block_out_channels)
        self.context.levels = frozenset(options.levels or range(levels))
        if options.token_weights:
            self.context.token_weights = torch.tensor(options.token_weights)
        first = options.positions[0]
        kind = StageTokens if options.parametrization == "attention" else StageVectors
        self.modules = []
        for encoder, ids in zip(parts.text_encoders, options.ids, strict=True):
            table = encoder.get_input_embeddings().weight
            embedding = table[torch.tensor(ids[0][first : first + options.class_tokens])].clone()
            self.modules.append(kind(embedding, float(table.std()), options.stages, options.split))

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Those of a second encoder's module begin with "1."."""
        return [
            (name if index == 0 else f"{index}.{name}", parameter)
            for index, module in enumerate(self.modules)
            for name, parameter in module.named_parameters()
        ]

    def losses(self, draws: Draws) -> Losses:
        options, context, scheduler = self.options, self.context, self.scheduler
        train_timesteps = scheduler.config.num_train_timesteps
        stages = draws.timesteps * options.stages // train_timesteps
        ids = [torch.tensor(prompts)[draws.templates] for prompts in options.ids]
        positions = [options.positions[template] for template in draws.templates]
        vectors = [module() for module in self.modules]
        slots = [
            [[[(p, v)] for p, v in zip(positions, both[kind][stages], strict=True)] for both in vectors]
            for kind in range(2)
        ]
        context.keys, context.values = (text_states(self.parts, ids, kind) for kind in slots)
        context.reference = text_states(self.parts, ids)
        context.losses = []
        added = added_conditions(self.parts, ids, list(options.time_ids))
        noisy = scheduler.add_noise(draws.latents, draws.noise, draws.timesteps)
        prediction = self.parts.unet(
            noisy, draws.timesteps, encoder_hidden_states=context.keys, added_cond_kwargs=added
        ).sample
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(draws.latents, draws.noise, draws.timesteps)
        else:
            target = draws.noise
        error = (prediction - target) ** 2
        reconstruction = (error if options.mask is None else options.mask * error).mean()
        # The sum over pixels keeps its meaning at every size: the factor is 1 for 64 x 64 latents.
        pixels = draws.latents.shape[-2] * draws.latents.shape[-1]
        attention = torch.stack(context.losses).mean() * 4096 / pixels
        return Losses(reconstruction + options.attention_weight * attention, reconstruction, attention)
