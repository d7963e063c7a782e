"""A plain training loop: fixed seeds, early stop, the best weights kept."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from oddlattice.model.patches import (
    Batch,
)
from oddlattice.model.vae import VAE, VAEConfig, loss_terms


@dataclass(frozen=True)
class Progress:
    """One look during training: step, mean misfit and divergence per patch [nats], held-out loss [nats]."""

    step: int
    misfit: float
    divergence: float
    held_out: float


def _tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.from_numpy(batch.patch)[:, None],
        torch.from_numpy(batch.target)[:, None],
        torch.from_numpy(batch.variance)[:, None],
    )


def held_out_loss(vae: VAE, batches: list[Batch], seed: int) -> float:
    """Mean negative evidence bound over batches that training never sees [nats per patch]."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        losses = [sum(loss_terms(vae, *_tensors(batch), generator)).mean() for batch in batches]  # type: ignore[union-attr]
    return float(torch.stack(losses).mean())


def train_vae(
    config: VAEConfig,
    batches: Iterator[Batch],
    held_out: list[Batch],
    *,
    steps: int,
    learning_rate: float = 2e-3,
    patience: int = 10,
    look_every: int = 200,
    seed: int = 0,
    say: Callable[[Progress], None] = lambda _: None,
) -> tuple[VAE, list[Progress]]:
    """Train until `steps` or until `patience` looks brought nothing; the weights of the best look are returned.

    Parameters
    ----------
    batches : iterator of Batch
        Endless.
    held_out : list of Batch
        Never trained on; decides when to stop.
    say : callable
        Called at each look.

    Returns
    -------
    vae : VAE
        In evaluation mode.
    history : list of Progress
    """
    torch.set_num_threads(1)  # the same sums in the same order whatever the cores; the batches are made beside it
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    vae = VAE(config)
    vae.start_from(torch.cat([torch.from_numpy(next(batches).target)[:, None] for _ in range(8)]))
    optimiser = torch.optim.Adam(vae.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=learning_rate, total_steps=steps)
    history: list[Progress] = []
    best, kept, since = float("inf"), {k: v.clone() for k, v in vae.state_dict().items()}, 0
    sums, count = torch.zeros(2), 0
    for step in range(1, steps + 1):
        misfit, divergence = loss_terms(vae, *_tensors(next(batches)), generator)
        optimiser.zero_grad()
        (misfit + divergence).mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 100.0)
        optimiser.step()
        schedule.step()
        sums, count = sums + torch.stack([misfit.mean(), divergence.mean()]).detach(), count + 1
        if step % look_every == 0 or step == steps:
            loss = held_out_loss(vae, held_out, seed + 2)
            history.append(Progress(step, float(sums[0] / count), float(sums[1] / count), loss))
            say(history[-1])
            sums, count, since = torch.zeros(2), 0, since + 1
            if loss < best:
                best, kept, since = loss, {k: v.clone() for k, v in vae.state_dict().items()}, 0
            if since >= patience:
                break
    vae.load_state_dict(kept)
    return vae.eval(), history


def ahead(batches: Iterator[Batch], depth: int = 8) -> Iterator[Batch]:
    """The same batches in the same order, made by a thread while the network trains."""
    ready: queue.Queue[Batch] = queue.Queue(depth)

    def make() -> None:
        for batch in batches:
            ready.put(batch)

    threading.Thread(target=make, daemon=True).start()
    while True:
        yield ready.get()
