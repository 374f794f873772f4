"""A training step's forward and backward pass, recorded once for each width of a row and replayed as a CUDA graph.

To start a step's operators one by one takes a host several times as long as a GPU needs to compute them; a graph
starts them all at once. `docs/speed.md` has the figures.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from heads import TweetClassifier
from smm4h.models.padding_free.attention import has_ragged_attention
from smm4h.models.padding_free.choice import kind_of
from smm4h.models.padding_free.encoder import PaddingFreeEncoder
from smm4h.models.padding_free.layout import Layout
from smm4h.training.captured.flat import FlatParameters, flatten
from smm4h.training.captured.rows import LONGEST, Packing, Row, TrainingTweets
from smm4h.training.optim import SparseRowEmbedding

log = logging.getLogger(__name__)

MOST_AHEAD = 4  # steps that the host may be ahead of its GPU: a stop must not wait for more
_warm: set[tuple] = set()  # what this process has computed once, so that its kernels are loaded


@cache
def _side_stream() -> torch.cuda.Stream:
    """Return a stream beside the default one, on which nothing can be recorded."""
    return torch.cuda.Stream()


def _recording_stream() -> torch.cuda.Stream:
    """Return the stream on which graphs are recorded that will be replayed on the current one.

    One, since cuBLAS keeps a workspace for each, which the graphs' products use; and not that of runs which are
    replayed on another stream at the same time, whose products would write to the same workspace.
    """
    current = torch.cuda.current_stream()
    return _side_stream() if current == torch.cuda.default_stream() else current


@cache
def _warn(reason: str) -> None:
    """Warn, once for each reason, that a step could not be recorded."""
    log.warning("training steps are not replayed as CUDA graphs, since recording one fails: %s", reason)


class Graph:
    """A computation without arguments, of which `replay` starts all kernels at once.

    Args:
        kind: of the computation; the first one of its kind in this process is computed once before it is recorded.
        pool: memory of all graphs of a model, of which one runs at a time.
    """

    def __init__(self, compute: Callable[[], None], kind: tuple, pool: tuple[int, int]) -> None:
        self.graph, side = torch.cuda.CUDAGraph(), _recording_stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            if kind not in _warm:
                before = torch.cuda.get_rng_state()
                compute()
                torch.cuda.set_rng_state(before)  # or dropout would depend on which kernels were loaded before
                _warm.add(kind)
            # torch.cuda.graph would collect garbage and empty the cache, for each width.
            self.graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                compute()
            finally:
                self.graph.capture_end()
        torch.cuda.current_stream().wait_stream(side)

    def replay(self) -> None:
        self.graph.replay()


class Computation:
    """What stands in for a `Graph` where there are none: `replay` computes."""

    def __init__(self, compute: Callable[[], None]) -> None:
        self.replay = compute


@dataclass
class RowReader:
    """Reads the states of a batch that lies in a row already; a `TweetClassifier.encoder_override`."""

    encoder: PaddingFreeEncoder
    parts: dict[str, torch.Tensor]
    layout: Layout

    def __call__(self, input_ids, attention_mask, n_layers, needs_tokens, token_type_ids=None) -> list[torch.Tensor]:
        """Return states as `PaddingFreeEncoder.__call__` does, whatever ids are given."""
        types = self.parts.get("types")
        states = self.encoder.states(self.parts["ids"], types, self.layout, n_layers, needs_tokens)
        return [self.layout.padded(states, LONGEST)] if needs_tokens else [layer.unsqueeze(1) for layer in states]


class CapturedStep:
    """The forward and backward pass of batches, with clipping, as graphs.

    Args:
        model: whose encoder `encoder` computes.
        tweets: the training tweets.
        mean_loss: returns a batch's loss, of the model's outputs and targets (n_tweets, n_classes).
        max_norm: at which gradients are clipped; 0: not at all.
    """

    def __init__(
        self,
        model: TweetClassifier,
        encoder: PaddingFreeEncoder,
        tweets: TrainingTweets,
        mean_loss: Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor],
        max_norm: float,
    ) -> None:
        self.model, self.encoder, self.tweets = model, encoder, tweets
        self.mean_loss, self.max_norm = mean_loss, max_norm
        self.on_gpu = model.device.type == "cuda"
        self.in_groups = not has_ragged_attention(encoder.layer_weights[0])
        own = {id(parameter) for parameter in encoder.parameters}
        self.others = [p for p in model.parameters() if id(p) not in own and p.requires_grad]
        self.flats: list[FlatParameters] = []
        self.graphs: dict[Packing, tuple[Row, Graph | Computation]] = {}
        self.pool = torch.cuda.graph_pool_handle() if self.on_gpu else None
        self.slots: list[tuple[torch.Tensor, torch.cuda.Event | None]] = []
        self.n_steps = 0
        self.loss, self.norm, self.scale = (torch.zeros((), device=model.device) for _ in range(3))
        self.scale.fill_(1.0)
        self.divides_gradients = False

    def flatten(self, optimizer: torch.optim.Optimizer) -> None:
        """Have an optimizer that has made no step yet step over few tensors, with clipped gradients."""
        idle = self._without_gradient()
        self.flats = flatten(optimizer, idle)
        self.others = [p for p in self.others if not any(p is other for other in idle)]
        self.encoder.fills_gradients, self.encoder.buffer = True, None
        if optimizer.defaults.get("fused"):
            optimizer.grad_scale = self.scale  # the kernel divides the gradients, without another pass over them
        else:
            self.divides_gradients = True

    def end(self) -> None:
        """Free the graphs, and give the parameters memory of their own."""
        if self.on_gpu:
            torch.cuda.synchronize()
        self.graphs, self.slots, self.encoder.fills_gradients = {}, [], False
        for flat in self.flats:
            flat.release()
        self.flats = []

    def __call__(self, indices: Sequence[int]) -> torch.Tensor:
        """Compute the loss () and the gradients of a batch of tweets, by their numbers; the device is not waited for.

        The loss is overwritten by the next call.
        """
        packing = self.tweets.packing(indices)
        values, event = self._slot(packing)
        self.tweets.pack(indices, packing, values.numpy())
        if packing not in self.graphs:
            self.graphs[packing] = self._record(packing, values)
        row, graph = self.graphs[packing]
        row.values.copy_(values, non_blocking=True)
        graph.replay()
        if event is not None:
            event.record()
        self.encoder.forget_copies()
        words = self.model.encoder.embeddings.word_embeddings
        if isinstance(words, SparseRowEmbedding):
            words.forget_table()
        return self.loss

    def _slot(self, packing: Packing) -> tuple[torch.Tensor, "torch.cuda.Event | None"]:
        """Return pinned memory for a batch, and the event that says when it is free again; wait for it to be free."""
        if not self.slots:
            most = self.tweets.largest_packing().n_values
            for _ in range(MOST_AHEAD):
                event = torch.cuda.Event() if self.on_gpu else None
                self.slots.append((torch.zeros(most, dtype=torch.int32, pin_memory=self.on_gpu), event))
        values, event = self.slots[self.n_steps % MOST_AHEAD]
        self.n_steps += 1
        if event is not None:
            event.synchronize()
        return values[: packing.n_values], event

    def _record(self, packing: Packing, values: torch.Tensor) -> tuple[Row, Graph | Computation]:
        """Record the step for batches of a packing; the first one's values serve where it is computed."""
        for flat in self.flats:
            flat.attach_gradients()
        row = Row(packing, values.to(self.model.device), self.in_groups)
        kind = *kind_of(self.model, self.encoder.dtype), self.tweets.loss_kind, packing
        if self.on_gpu:
            try:
                return row, Graph(lambda: self._compute(row), kind, self.pool)
            except RuntimeError as failure:
                _warn(str(failure).splitlines()[0])
        return row, Computation(lambda: self._compute(row))

    def _compute(self, row: Row) -> None:
        """Write the loss, all gradients, their norm before clipping, and what they are divided by."""
        loss = self._loss_of(row)
        gradients = torch.autograd.grad(loss, self.others)
        torch._foreach_copy_([parameter.grad for parameter in self.others], gradients)
        self.loss.copy_(loss.detach())
        wholes = [flat.whole.grad for flat in self.flats]
        self.norm.copy_(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(wholes))))
        if self.max_norm > 0:
            self.scale.copy_(((self.norm + 1e-6) / self.max_norm).clamp_min(1.0))
            if self.divides_gradients:
                torch._foreach_div_(wholes, self.scale)

    def _loss_of(self, row: Row) -> torch.Tensor:
        """Return a batch's loss, with what its gradients need."""
        parts = row.parts()
        mask = row.mask(parts["ends"]).long()
        self.model.encoder_override = RowReader(self.encoder, parts, row.layout(parts, self.encoder.dtype))
        try:
            # cuDNN's recurrent nets would copy weights that do not lie in their order.
            with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
                return self.mean_loss(self.model(input_ids=mask, attention_mask=mask), parts["targets"])
        finally:
            self.model.encoder_override = self.encoder

    def _without_gradient(self) -> list[torch.nn.Parameter]:
        """Return the parameters that no loss depends on, such as those of a pooler that no head reads."""
        indices = list(range(min(self.tweets.n_tweets, len(self.tweets.lengths))))
        packing = self.tweets.packing(indices)
        values = torch.zeros(packing.n_values, dtype=torch.int32)
        self.tweets.pack(indices, packing, values.numpy())
        devices = [self.model.device] if self.on_gpu else []
        with torch.random.fork_rng(devices):
            loss = self._loss_of(Row(packing, values.to(self.model.device), self.in_groups))
            found = torch.autograd.grad(loss, self.others, allow_unused=True)
        return [parameter for parameter, gradient in zip(self.others, found, strict=True) if gradient is None]
