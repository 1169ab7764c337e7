"""Previews within a training run: the plain base's weights take the place of the trained model's for a while.

Both models have the same layout, so nothing is allocated: the plain weights wait in main memory, are copied into the
GPU memory of the trained model's, and afterwards the trained model gets its own back. Compiled code and recorded graphs
keep their addresses. Independent of samplers and files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from charloom.engine import host, memory
from charloom.engine.fuse import base_of
from charloom.kernels import quantize

SPARE = 2 * memory.GIB
"""Bytes of main memory that must stay free."""


class CannotBorrow(Exception):
    """The plain weights do not fit in the trained ones' place; says why."""


class Lost(BaseException):
    """The trained model is no longer what it was: nobody may catch this and train on."""


class Borrowed:
    """The plain ``model`` in the place of the ``trained`` one.

    Args:
        model: the plain transformer on the meta device, in the number format of the trained one.
        waiting: its weights, and room for those of the trained one, from :func:`in_main_memory`.
        trained: the model in training, with adapters and perhaps fused Linears.

    Raises:
        CannotBorrow: another number format, or some of the trained weights live in main memory.
    """

    def __init__(self, model: nn.Module, waiting: tuple[HostCopy, HostCopy], trained: nn.Module) -> None:
        self.model, self._trained = model.requires_grad_(False), trained
        self._places = {name: place_in(trained, name) for name in model.state_dict()}
        self._plain, self._own = waiting
        device = next(parameter.device for parameter in trained.parameters() if parameter.requires_grad)
        for name, place in self._places.items():
            wanted = self._plain[name]
            if place is None or place.shape != wanted.shape or place.dtype != wanted.dtype:
                raise CannotBorrow(f"the previews' weights differ from those in training ({name})")
            if place.device != device:
                raise CannotBorrow("some of the trained model's weights live in main memory")
        # Swapped blocks share their place on the GPU.
        if len({place.data_ptr() for place in self._places.values()}) < len(self._places):
            raise CannotBorrow("some of the trained model's weights live in main memory")
        for name, place in self._places.items():
            self._own[name].copy_(place)
        model.load_state_dict(self._places, assign=True)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[nn.Module]:
        """Inside the block, the model has its weights, and the trained one must not run.

        Raises:
            CannotBorrow: the trained model's weights are no longer where they were.
        """
        for name, place in self._places.items():
            if place_in(self._trained, name).data_ptr() != place.data_ptr():
                raise CannotBorrow("the trained model's weights have moved")
        try:
            self._copy(self._plain)
            yield self.model
        finally:
            try:
                self._copy(self._own)
            except Exception as error:
                raise Lost(f"the trained model's weights could not be put back ({error}); run again to go on") from None

    @torch.no_grad()
    def _copy(self, values: HostCopy) -> None:
        for name, place in self._places.items():
            place.copy_(values[name], non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def in_main_memory(
    model: nn.Module, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype = torch.bfloat16
) -> tuple[HostCopy, HostCopy]:
    """The ``weights`` of ``model`` (on the meta device) and as much room again; what is not quantised is in ``dtype``.

    It takes seconds. Nothing runs on a GPU unless ``weights`` are on one, so that a training may go on meanwhile.

    Raises:
        CannotBorrow: not enough main memory for them and the trained model's.
    """
    quantised = quantize.stored_names(model)
    room = {n: t if n in quantised else t.to(dtype) for n, t in model.state_dict().items()}
    values = HostCopy(room, spare=SPARE + sum(tensor.nbytes for tensor in room.values()))
    for name, tensor in weights:
        values[name].copy_(tensor)
    both = values, HostCopy(room)
    both[1].touch()
    if torch.cuda.is_initialized():
        for one in both:
            one.pin()
    return both


class HostCopy(dict[str, Tensor]):
    """Room in main memory for tensors like ``places``.

    Raises:
        CannotBorrow: less than ``spare`` bytes would be left.
    """

    def __init__(self, places: Mapping[str, Tensor], spare: int = SPARE) -> None:
        super().__init__()
        starts, end = {}, 0
        for name, place in places.items():
            starts[name] = end
            end += host.aligned(place.nbytes)
        if end + spare > host.available():
            raise CannotBorrow(f"it needs {2 * end / memory.GIB:.0f} GiB of main memory")
        self._buffer = host.room(end)
        for name, place in places.items():
            part = self._buffer[starts[name] : starts[name] + place.nbytes]
            self[name] = part.view(place.dtype).view(place.shape)

    def touch(self) -> None:
        """Take the memory now, which takes seconds: pinning would, and nothing runs on the GPU meanwhile."""
        host.touch(self._buffer)

    def pin(self) -> None:
        """Pin it where the driver allows."""
        host.pin(self._buffer, self)


def place_in(trained: nn.Module, name: str) -> Tensor | None:
    """The tensor of ``trained`` that a model without adapters calls ``name``, detached; None if there is none."""
    owner, _, leaf = name.rpartition(".")
    try:
        return getattr(base_of(trained.get_submodule(owner)), leaf).detach()
    except AttributeError:
        return None
