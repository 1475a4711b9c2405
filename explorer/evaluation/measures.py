"""What data says about one model, example by example: squared gradients, and the inputs of its linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from explorer.errors import InputError, near, sentence
from explorer.evaluation._api import KINDS
from explorer.evaluation._task import EvaluationTask
from explorer.evaluation._tools import Tool
from explorer.evaluation.models import parameters_by_name
from explorer.seeds import stable_seed

LABELS = ("auto", "expected", "sampled")
"""How Fisher values look at labels: the mean over all of them, or one drawn from the model's own prediction."""

MANY_LABELS = 32
"""With more labels than this, "auto" draws one: the exact mean costs a backward pass for each."""

Inputs = Mapping[str, Tensor]


def single_examples(task: EvaluationTask, tokenizer: Tool | None, count: int, seed: int) -> list[dict[str, Tensor]]:
    """`count` examples of a split (all, where it has fewer) in a seeded order, each a batch of its own.

    So nothing is padded, and one backward pass is one example's gradient.
    """
    kind = KINDS.get(task.kind)
    call = tokenizer.call if tokenizer else None
    order = np.random.default_rng(stable_seed(seed, task.digest, "gather")).permutation(task.n)[:count]
    prepared = kind.examples([task.rows[i] for i in order], call, task.told)
    return [kind.batch([example], call) for example in prepared]


@dataclass
class Measures:
    """Running sums over examples of one model on one task; `result` gives the means.

    `names` are the checkpoint's tensors to measure. Fisher: the mean over examples of (∂ log p(y|x) / ∂θ)², averaged
    exactly over all labels y with the model's prediction p (`labels` "expected": one backward pass per label), or for
    one y drawn from p ("sampled": one pass, but where the model is sure most draws say nothing); "auto" is the first
    up to 32 labels. That is the model's Fisher information, not the "empirical" one, which takes the true labels.
    Gram: XᵀX of the inputs of every linear layer, over all tokens, divided by their number. Tensors that the model
    does not use, and buffers, have no Fisher values.
    Raises InputError for an unknown kind of labels.
    """

    module: nn.Module
    task: EvaluationTask
    names: Sequence[str]
    kinds: Sequence[str]
    labels: str = "auto"
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        if self.labels not in LABELS:
            must = f"labels must be one of {', '.join(LABELS)}"
            raise InputError(sentence("gather", must, repr(self.labels), near(self.labels, LABELS)))
        if self.labels == "auto":
            self.labels = "expected" if len(self.task.labels) <= MANY_LABELS else "sampled"
        self._parameters = parameters_by_name(self.module, self.names)
        self._head = None if self.task.head is None else self.task.head.to(self.device)
        self._own = list({id(p): p for p in self._parameters.values()}.values())
        self._squares = {id(p): torch.zeros_like(p) for p in self._own} if "fisher" in self.kinds else {}
        self._grams: dict[int, Tensor] = {}
        self._tokens: dict[int, int] = {}
        self._draws = torch.Generator().manual_seed(stable_seed(self.seed, self.task.digest, "labels") % (1 << 63))
        self.examples = 0

    def add(self, batch: Inputs) -> None:
        """Count one example."""
        with self._watched():
            scores = self._scores({k: v.to(self.device) for k, v in batch.items()})
        if self._squares:
            self._add_squares(torch.log_softmax(scores[0], dim=0))
        self.examples += 1

    def _scores(self, inputs: Inputs) -> Tensor:
        kind = KINDS.get(self.task.kind)
        for parameter in self._own:
            parameter.requires_grad_(bool(self._squares))
        with torch.set_grad_enabled(bool(self._squares)):
            return kind.function(self.module, inputs, self._head, **self.task.parameters)

    def _add_squares(self, log_probabilities: Tensor) -> None:
        chances = log_probabilities.detach().exp().cpu()
        every = list(enumerate(chances.tolist()))
        if self.labels == "sampled":
            every = [(int(torch.multinomial(chances, 1, generator=self._draws)), 1.0)]
        for label, chance in every:
            gradients = torch.autograd.grad(
                log_probabilities[label], self._own, retain_graph=label != every[-1][0], allow_unused=True
            )
            for parameter, gradient in zip(self._own, gradients, strict=True):
                if gradient is not None:
                    self._squares[id(parameter)].addcmul_(gradient, gradient, value=chance)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """While it lasts, the inputs of the measured linear layers are added up."""
        wanted = {id(p) for p in self._own} if "gram" in self.kinds else set()
        with ExitStack() as stack:
            for layer in self.module.modules():
                if isinstance(layer, nn.Linear) and id(layer.weight) in wanted:
                    handle = layer.register_forward_pre_hook(self._add_inputs)
                    stack.callback(handle.remove)
            yield

    def _add_inputs(self, layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Linear)
        rows = arguments[0].detach().reshape(-1, layer.in_features).double()
        key = id(layer.weight)
        self._grams[key] = self._grams.get(key, 0) + rows.T @ rows
        self._tokens[key] = self._tokens.get(key, 0) + len(rows)

    def result(self) -> dict[str, Tensor]:
        """The means so far under the keys of a statistics file, float32, on the CPU."""
        count = max(1, self.examples)
        found = {}
        for name, parameter in self._parameters.items():
            key = id(parameter)
            if key in self._squares:
                found[f"fisher/{name}"] = (self._squares[key] / count).float().cpu()
            if key in self._grams:
                mean = self._grams[key] / self._tokens[key]
                found[f"gram/{name}"] = ((mean + mean.T) / 2).float().cpu()
        return found
