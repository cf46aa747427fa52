"""DPO with soft labels: how sure the label of a pair is goes into its loss.

With Δ the difference of the two log-ratios, a pair whose label is right with probability p costs

    −[p·log σ(βΔ) + (1−p)·log σ(−βΔ)]  =  −log σ(βΔ) + (1−p)·βΔ

which is TRL's sigmoid loss and a term that is linear in βΔ; at p = 1 nothing is added. It is lowest where
βΔ = log(p/(1−p)): an unsure pair is not pushed apart without end. TRL has no column for p, so the term is added
here, from the log-probabilities that TRL's own forward pass gave. The same with the length-normalised Δ of
`sigmoid_norm`. This leans on two private methods of TRL 1.16; a numeric test against the formula holds it.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import DPOTrainer

from cai.train.refuse import SOFT

P = "p"


class WithP:
    """A collator that adds each row's `p` to what another one makes of the rest."""

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch, with the probabilities as a float tensor."""
        return {**self._collate(rows), P: torch.tensor([row[P] for row in rows], dtype=torch.float32)}


class SoftDPOTrainer(DPOTrainer):
    """TRL's DPOTrainer on rows with a column `p`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Only now: the pass that computes the reference takes no other columns.
        self.data_collator: Any = WithP(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if P not in self._signature_columns:
            self._signature_columns.append(P)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        p = inputs.pop(P)
        seen: list[torch.Tensor] = []  # of the policy, then of the reference where it was not computed before
        asked = [self.model] if self.ref_model is None else [self.model, self.ref_model]
        hooks = [
            module.register_forward_hook(lambda _module, _inputs, found: seen.append(found.log_probs))
            for module in asked
        ]
        try:
            loss = super()._compute_loss(model, inputs, return_outputs)
        finally:
            for hook in hooks:
                hook.remove()
        soft = self._soft_term(p, inputs, seen)
        return (loss[0] + soft, loss[1]) if return_outputs else loss + soft

    def _soft_term(self, p: torch.Tensor, inputs: dict[str, Any], seen: list[torch.Tensor]) -> torch.Tensor:
        """Mean of (1−p)·βΔ over the batch, for each logistic part of the loss with its weight."""
        mask = inputs["completion_mask"]
        chosen, rejected = self._log_prob(seen[0], mask).chunk(2)
        if self.precompute_ref_logps:
            ref_chosen, ref_rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            ref_chosen, ref_rejected = self._log_prob(seen[1], mask).chunk(2)
        better, worse = chosen - ref_chosen, rejected - ref_rejected
        p = p.to(better.dtype)
        lengths = mask.sum(dim=1).clamp(min=1).chunk(2)
        deltas = {"sigmoid": better - worse, "sigmoid_norm": better / lengths[0] - worse / lengths[1]}
        total = better.new_zeros(())
        for loss_type, weight in zip(self.loss_types, self.loss_weights, strict=True):
            if loss_type in SOFT:
                total = total + weight * ((1 - p) * self.beta * deltas[loss_type]).mean()
        return total

    def _log_prob(self, per_token: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Of each completion; with `ld_alpha`, tokens beyond the shorter one of a pair count that much (LD-DPO)."""
        mask = mask[:, 1:]
        per_token = per_token[:, -mask.size(1) :]
        if self.ld_alpha is None:
            return per_token.sum(dim=1)
        place = mask.cumsum(dim=1)
        shared = torch.minimum(*mask.sum(dim=1).chunk(2)).repeat(2).unsqueeze(1)
        weight = torch.where(place <= shared, 1.0, self.ld_alpha) * mask
        return (per_token * weight).sum(dim=1)
