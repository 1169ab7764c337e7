"""Previews within a training run: the plain base's weights take the place of the trained model's for a while.

Both models have the same layout, so nothing is allocated: the plain weights wait in main memory, are copied into the
GPU memory of the trained model's, and afterwards the trained model gets its own back. Compiled code and recorded graphs
keep their addresses. Independent of samplers and files.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from charloom.engine import host, memory
from charloom.engine.fuse import base_of
from charloom.kernels import quantize

SPARE = 2 * memory.GIB
"""Bytes of main memory that must stay free."""


_copies: weakref.WeakValueDictionary[int, HostCopy] = weakref.WeakValueDictionary()
"""All live copies, by id, because a dict is not hashable."""


class CannotBorrow(Exception):
    """The plain weights cannot take the place of the trained ones; the message says why."""


class Lost(BaseException):
    """The trained model's weights are lost. Not an Exception, so that nothing catches it and continues training."""


class Borrowed:
    """The plain ``model`` in place of the ``trained`` one.

    Args:
        model: the plain transformer on the meta device, in the number format of the trained one.
        waiting: its weights, and space for those of the trained one, from :func:`in_main_memory`.
        trained: the model in training, with adapters and perhaps fused Linears.

    Raises:
        CannotBorrow: as :func:`places`.
    """

    def __init__(self, model: nn.Module, waiting: tuple[HostCopy, HostCopy], trained: nn.Module) -> None:
        self.model, self._trained = model.requires_grad_(False), trained
        self._places = places(model, trained)
        self._plain, self._own = waiting
        for name, place in self._places.items():
            if place.dtype != self._own[name].dtype:
                raise CannotBorrow(f"the previews' weights differ from those in training ({name})")
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


def places(model: nn.Module, trained: nn.Module) -> dict[str, Tensor]:
    """Where the weights of the plain ``model`` (on the meta device) would be in the ``trained`` one, by name.

    Raises:
        CannotBorrow: another number format, or some of the trained weights live in main memory.
    """
    quantised, found = quantize.stored_names(model), {}
    device = next(parameter.device for parameter in trained.parameters() if parameter.requires_grad)
    for name, wanted in model.state_dict().items():
        place = place_in(trained, name)
        same = place is not None and place.shape == wanted.shape
        # The other tensors are bf16 or fp32, as the trained model's are.
        if not same or (place.dtype != wanted.dtype if name in quantised else place.element_size() < 2):
            raise CannotBorrow(f"the previews' weights differ from those in training ({name})")
        if place.device != device:
            raise CannotBorrow("some of the trained model's weights live in main memory")
        found[name] = place
    # Swapped blocks share their place on the GPU.
    if len({place.data_ptr() for place in found.values()}) < len(found):
        raise CannotBorrow("some of the trained model's weights live in main memory")
    return found


def in_main_memory(
    model: nn.Module,
    weights: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype = torch.bfloat16,
    wanted: Callable[[], bool] = lambda: True,
) -> tuple[HostCopy, HostCopy]:
    """Copies of the ``weights`` of ``model`` (on the meta device), and as much space again, both in main memory.

    Unquantized weights get ``dtype``. Takes seconds, and uses no GPU unless ``weights`` are on one, so that training
    can continue meanwhile; ends early once ``wanted()`` is false.

    Raises:
        CannotBorrow: not enough main memory for both, or the copies are no longer wanted.
    """
    quantised = quantize.stored_names(model)
    room = {n: t if n in quantised else t.to(dtype) for n, t in model.state_dict().items()}
    values = HostCopy(room, spare=SPARE + sum(tensor.nbytes for tensor in room.values()))
    both = values, HostCopy(room)
    for name, tensor in weights:
        values[name].copy_(tensor)
        both[1][name].zero_()  # touches the pages: otherwise pinning would, which holds up launches on the GPU
        if not wanted():
            raise CannotBorrow("they are no longer wanted")
    if torch.cuda.is_initialized():
        for one in both:
            one.pin()
    return both


def held() -> int:
    """Bytes of main memory that copies of weights take now."""
    return sum(copy.size for copy in _copies.values())


class HostCopy(dict[str, Tensor]):
    """Room in main memory for tensors like ``places``; ``size`` is its bytes.

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
        self._buffer, self.size = host.room(end), end
        _copies[id(self)] = self
        for name, place in places.items():
            part = self._buffer[starts[name] : starts[name] + place.nbytes]
            self[name] = part.view(place.dtype).view(place.shape)

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
