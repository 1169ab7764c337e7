"""One run computed by several processes (ranks), each on a GPU of its own, to the same bytes as by one.

The samples of an update are computed one by one: place ``p`` of the update by rank ``p mod N``. After each round every
rank gets all gradients and adds them in the order of the places, which is how one process adds them up. A sum by
all-reduce would depend on N, and on the network. All ranks then clip and update alike; only rank 0 writes.

Each rank is a process of its own (:mod:`charloom.workflow.launch` starts them; :mod:`charloom.train.meeting` says who
it is). They communicate through ``torch.distributed``: NCCL between GPUs, gloo between CPUs and for everything that is
not a gradient.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from charloom.core.errors import UserError
from charloom.train import meeting
from charloom.train.meeting import Lost

FOREVER = datetime.timedelta(days=7)
"""A rank waits while another draws previews; the process that started them all notices when one is gone."""
BUCKET = 16 * 2**20
"""Numbers that are exchanged at once, so that the room for them does not grow with the adapter."""

T = TypeVar("T")

_all_gather = getattr(torch.distributed, "all_gather_single", None) or torch.distributed.all_gather_into_tensor
"""The newer name, if there is one: torch then warns about the older one."""


class Ranks:
    """The processes of a run; this class itself is a run of one process, which exchanges nothing.

    ``rank`` counts from 0, ``count`` is the number of processes.
    """

    rank, count = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def decided(self, value: T) -> T:
        """``value`` (plain) as rank 0 has it."""
        return value

    def gathered(self, value: T) -> list[T]:
        """``value`` (plain) of every rank; also waits for all of them."""
        return [value]

    def sums(self, parameters: Sequence[nn.Parameter]) -> Sums | None:
        """What adds up the gradients of all; None where there is nothing to exchange."""
        return None

    def room(self, parameters: Sequence[nn.Parameter]) -> int:
        """Bytes that :meth:`sums` will allocate."""
        return 0

    def check(self, parameters: Sequence[nn.Parameter]) -> None:
        """Wait for all, and make sure that all have the same parameters to the bit.

        Raises:
            UserError: they differ.
        """


class Several(Ranks):
    """One of several processes of a run; made by :func:`joined`."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count

    def decided(self, value: T) -> T:
        box = [value]
        with _together():
            torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gathered(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.count
        with _together():
            # Pickled by torch between processes of our own; nothing of it comes from a file or from outside.
            torch.distributed.all_gather_object(values, value)
        return values

    def sums(self, parameters: Sequence[nn.Parameter]) -> Sums:
        return Sums(self, parameters)

    def room(self, parameters: Sequence[nn.Parameter]) -> int:
        return 4 * (sum(p.numel() for p in parameters) + (self.count + 1) * BUCKET)

    def check(self, parameters: Sequence[nn.Parameter]) -> None:
        found = self.gathered(_fingerprint(parameters))
        if wrong := [rank for rank, one in enumerate(found) if one != found[0]]:
            raise UserError(
                f"GPU {wrong[0] + 1} of {self.count} computes other numbers than the first: use GPUs of one kind, or "
                "set gpus: 1; run again to go on from the last checkpoint"
            )


class Sums:
    """Adds up the gradients of an update over all ranks, in the order in which one process would.

    Call :meth:`add` after each of this rank's samples (or without one, if it has none in this round), and
    :meth:`finish` once at the end of the update.
    """

    def __init__(self, ranks: Several, parameters: Sequence[nn.Parameter]) -> None:
        self.ranks, self.parameters = ranks, parameters
        self.device = parameters[0].device
        self.buckets = list(_buckets([p.numel() for p in parameters]))
        sizes = [sum(parameters[i].numel() for i in bucket) for bucket in self.buckets]
        self.totals = [torch.zeros(size, device=self.device) for size in sizes]
        self.theirs = torch.empty(ranks.count, max(sizes), device=self.device)
        self.own = torch.zeros(max(sizes), device=self.device)
        self._used = [False] * len(parameters)
        self._round = 0
        self._losses: list[Tensor] = []
        # NCCL allocates its buffers now, before anybody measures how much memory is left.
        with _together():
            _all_gather(self.theirs[:, 0].contiguous(), self.own[:1])

    @torch.no_grad()
    def add(self, loss: Tensor | None, filled: int) -> None:
        """Take the gradients of a round in which the first ``filled`` ranks have a sample, with its ``loss`` (1,)."""
        ranks = self.ranks
        if loss is not None:
            used = zip(self._used, self.parameters, strict=True)
            self._used = [before or p.grad is not None for before, p in used]
        self._losses.append(torch.zeros(1, device=self.device) if loss is None else loss.float().view(1))
        for total, bucket in zip(self.totals, self.buckets, strict=True):
            own = self.own[: len(total)]
            if loss is not None:
                gradients = [self.parameters[i].grad for i in bucket]
                parts = [
                    torch.zeros_like(self.parameters[i]).flatten() if g is None else g.flatten()
                    for i, g in zip(bucket, gradients, strict=True)
                ]
                torch.cat(parts, out=own)
            theirs = self.theirs.flatten()[: ranks.count * len(total)]
            with _together():
                _all_gather(theirs, own)
            for rank, gradient in enumerate(theirs.view(ranks.count, -1)[:filled]):
                if self._round or rank:
                    total.add_(gradient)
                else:
                    total.copy_(gradient)
        self._round += 1

    @torch.no_grad()
    def finish(self, places: int, flag: bool) -> tuple[Tensor, Tensor]:
        """Put the sums into the parameters' gradients.

        Returns:
            the losses of all ``places`` of the update (places,), and how many ranks have set ``flag`` (1,).
        """
        used = self._used_by_any()
        for total, bucket in zip(self.totals, self.buckets, strict=True):
            sizes = [self.parameters[i].numel() for i in bucket]
            for index, part in zip(bucket, total.split(sizes), strict=True):
                parameter = self.parameters[index]
                if not used[index]:
                    parameter.grad = None
                elif parameter.grad is None:
                    parameter.grad = part.view(parameter.shape).clone()
                else:  # recorded graphs and flattened optimizers keep these very tensors
                    parameter.grad.copy_(part.view(parameter.shape))
        asked = torch.tensor([float(flag)]).to(self.device, non_blocking=True)
        own = torch.cat([*self._losses, asked])
        rows = torch.empty(self.ranks.count, len(own), device=self.device)
        with _together():
            _all_gather(rows.flatten(), own)
        self._round, self._losses, self._used = 0, [], [False] * len(self.parameters)
        return rows[:, :-1].T.flatten()[:places], rows[:, -1].sum().view(1)

    def _used_by_any(self) -> list[bool]:
        """Which parameters get a gradient from any sample of the update; dropout of whole modules leaves some out."""
        if self.device.type == "cuda":
            return [True] * len(self.parameters)  # at least zeros, from the engine
        return [any(one) for one in zip(*self.ranks.gathered(self._used), strict=True)]


ALONE = Ranks()


def joined(device: torch.device) -> Ranks:
    """The ranks of this process's run, which computes on ``device``; :data:`ALONE` if nobody started several."""
    who = meeting.told()
    if who is None:
        return ALONE
    rank, count = who
    # One machine: ranks communicate over the loopback interface, whatever its network looks like.
    loopback = "lo0" if os.uname().sysname == "Darwin" else "lo"
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, loopback)
    # A few hundred MB per update gain nothing from multicast, which is often forbidden or broken in containers.
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device.index or 0)  # each sees its own GPU alone
    store = torch.distributed.FileStore(os.environ[meeting.MEETING], count)  # type: ignore[attr-defined]
    with _together():
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=count, timeout=FOREVER
        )
    return Several(rank, count)


@contextmanager
def _together() -> Iterator[None]:
    """Inside the block, any error means that another rank is gone."""
    try:
        yield
    except (RuntimeError, torch.distributed.DistError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise Lost(str(error)) from error


def _buckets(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Indices of consecutive parameters with at most :data:`BUCKET` numbers together, or one that has more."""
    bucket: list[int] = []
    for index, size in enumerate(sizes):
        if bucket and sum(sizes[i] for i in bucket) + size > BUCKET:
            yield bucket
            bucket = []
        bucket.append(index)
    if bucket:
        yield bucket


@torch.no_grad()
def _fingerprint(parameters: Sequence[nn.Parameter]) -> list[int]:
    """Sums of the parameters' bits, which differ as soon as one bit does."""
    words = [p.detach().float().contiguous().view(torch.int32).sum(dtype=torch.int64) for p in parameters]
    return [int(value) for value in torch.stack(words).cpu()]
