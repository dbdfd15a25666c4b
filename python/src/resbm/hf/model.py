"""Configuration and causal language model.

Legend: B sequences, T new tokens, S tokens with those before, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..torch.blocks import Attend
from ..torch.crossing import Position
from ..torch.kinds import Pass
from ..torch.run_config import RunConfig
from ..torch.stack import Stack, boundaries, halves, has_subspace, head, lay_subspace


class ResbmConfig(PreTrainedConfig):
    """config.json of an exported run.

    Args:
        run: the run's whole configuration, YAML; the sizes beside it are for tools that look for them.
        resbm_step: training steps done.
    """

    model_type = "resbm"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(self, run: str = "", resbm_step: int = 0, **kwargs: Any) -> None:
        self.run, self.resbm_step = run, resbm_step
        super().__init__(**kwargs)


class ResbmForCausalLM(PreTrainedModel, GenerationMixin):
    """A run's whole model in one process."""

    config_class = ResbmConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _no_split_modules = ("Block", "Boundary")

    def __init__(self, config: ResbmConfig) -> None:
        super().__init__(config)
        if not config.run:
            raise ValueError("this config.json has no `run`: it comes from `resbm export --hf RUN OUT`")
        c = self.run = RunConfig(config.run)
        position = Position(step=config.resbm_step)
        self.model, self.lm_head, self.boundary = Stack(c), head(c), boundaries(c, position)
        for half in halves(self.boundary):
            half.aux = None  # training's alone, and not exported
            half.decoder.residue = None
        self._subspace: Tensor | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Modules make their own; nothing to do for what a checkpoint leaves out, as it leaves out nothing."""

    def get_input_embeddings(self) -> nn.Module:
        """The table (V,d)."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table."""
        self.model.embed_tokens = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Module | None:
        """The head, None where it is the table."""
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (B,T,V) of input_ids (B,T), those of a cache before them; the loss of labels (B,T) as transformers'.

        Args:
            input_ids: tokens; embeddings in their place (inputs_embeds) are refused, as token paths need the ids.
            attention_mask: (B,S), 0 where there is padding, on either side.
            position_ids: (B,T); default: counted, padding left out.
            past_key_values: a DynamicCache.
            labels: -100 where there is none.
            use_cache: make a cache where there is none.
            logits_to_keep: of the last so many tokens only, or of these.
            return_dict: False for a tuple.
            kwargs: what else callers of transformers hand on; outputs it asks for are not there.
        """
        if input_ids is None or kwargs.get("inputs_embeds") is not None:
            raise ValueError("a run's receivers may need the token ids: give input_ids, not inputs_embeds")
        if past_key_values is not None and not isinstance(past_key_values, DynamicCache):
            raise TypeError(f"a {type(past_key_values).__name__} is of fixed size; this model takes a DynamicCache")
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        if has_subspace(self.run) and self._subspace is None:  # not in __init__: weights may not be anywhere then
            self._subspace = lay_subspace(self.model, self.boundary)
        run = self._pass(input_ids, attention_mask, position_ids, past_key_values)
        x, _ = self.model.hidden(input_ids, run, self.boundary)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.model.logits(x[:, keep, :], self.lm_head)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.run.vocab, **kwargs)
        if return_dict is False:
            return tuple(v for v in (loss, logits, past_key_values) if v is not None)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _pass(
        self, ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, cache: DynamicCache | None
    ) -> Pass:
        t, device = ids.shape[1], ids.device
        past = cache.get_seq_length() if cache is not None else 0
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask is {tuple(attention_mask.shape)}; it must be (B,S), 0 where there is padding"
            )
        real = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.to(device).bool()
        if position_ids is None:
            position_ids = torch.arange(past, past + t, device=device)
            if real is not None:
                position_ids = (real.long().cumsum(-1) - 1).clamp(min=0)[:, -t:]
        elif position_ids.dim() == 2 and position_ids.shape[0] == 1:
            position_ids = position_ids[0]
        if real is None and cache is None:
            return Pass(position_ids)
        mask = torch.ones(t, past + t, dtype=torch.bool, device=device).tril(past)
        if real is not None:  # a padding token sees itself, so that no row is empty
            own = torch.eye(past + t, dtype=torch.bool, device=device)[past:]
            mask = (mask & real[:, None, None, : past + t]) | own
        return Pass(position_ids, lambda block: _attention(block, cache, mask))


def _attention(block: int, cache: DynamicCache | None, mask: Tensor) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if cache is not None:
            while len(cache.layers) <= block:  # generate() counts the model's layers; trunks' blocks are behind them
                cache.layers.append(DynamicLayer())
            k, v = cache.update(k, v, block)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])

    return attend
