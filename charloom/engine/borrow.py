"""Previews within a training run: the plain base's weights take the place of the trained model's for a while.

Both models have the same layout, so nothing is allocated: the plain weights wait in main memory, are copied into the
GPU memory of the trained model's, and afterwards the trained model gets its own back. Compiled code and recorded graphs
keep their addresses. Independent of samplers and files.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from charloom.engine import memory
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
        plain: its weights, from :func:`in_main_memory`.
        trained: the model in training, with adapters and perhaps fused Linears.

    Raises:
        CannotBorrow: another number format, or not enough main memory for both.
    """

    def __init__(self, model: nn.Module, plain: HostCopy, trained: nn.Module) -> None:
        self.model, self._trained = model.requires_grad_(False), trained
        self._places = {name: place_in(trained, name) for name in model.state_dict()}
        quantised = quantize.stored_names(model)
        device = next(parameter.device for parameter in trained.parameters() if parameter.requires_grad)
        for name, wanted in model.state_dict().items():
            place = self._places[name]
            same = place is not None and place.shape == wanted.shape
            # The other tensors are bf16 or fp32, as the trained model's are.
            if not same or (place.dtype != wanted.dtype if name in quantised else place.element_size() < 2):
                raise CannotBorrow(f"the previews' weights differ from those in training ({name})")
            if place.device != device:
                raise CannotBorrow("some of the trained model's weights live in main memory")
        # Swapped blocks share their place on the GPU.
        if len({place.data_ptr() for place in self._places.values()}) < len(self._places):
            raise CannotBorrow("some of the trained model's weights live in main memory")
        self._own, self._plain = HostCopy(self._places), plain
        if device.type == "cuda":
            self._own.pin()
            self._plain.pin()
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
) -> HostCopy:
    """The ``weights`` of ``model`` (on the meta device), those that are not quantised in ``dtype``.

    Touches no GPU unless ``weights`` are on one, so that it may be done while a training runs.

    Raises:
        CannotBorrow: not enough main memory for them and the trained model's.
    """
    quantised = quantize.stored_names(model)
    room = {n: t if n in quantised else t.to(dtype) for n, t in model.state_dict().items()}
    values = HostCopy(room, spare=SPARE + sum(tensor.nbytes for tensor in room.values()))
    for name, tensor in weights:
        values[name].copy_(tensor)
    return values


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
            end += -(-place.nbytes // 256) * 256
        if end + spare > _available():
            raise CannotBorrow(f"it needs {2 * end / memory.GIB:.0f} GiB of main memory")
        self._buffer = _large_pages(end)
        for name, place in places.items():
            part = self._buffer[starts[name] : starts[name] + place.nbytes]
            self[name] = part.view(place.dtype).view(place.shape)

    def pin(self) -> None:
        """Pin it where the driver allows. Not pin_memory, which rounds up to a power of two."""
        address, size = self._buffer.data_ptr(), self._buffer.nbytes
        if int(torch.cuda.cudart().cudaHostRegister(address, size, 0)) == 0:
            # Before the memory is freed: whoever got it next would be copied from the wrong place.
            weakref.finalize(self, _unpin, address).atexit = False
        else:
            with contextlib.suppress(RuntimeError):  # the refusal would be reported by the next launch
                torch.zeros(1, device="cuda")


def _large_pages(size: int) -> Tensor:
    """``size`` bytes (uint8), in large pages where the system has them: pinning visits every page."""
    memory_ = mmap.mmap(-1, max(size, 1))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory_.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory_, dtype=torch.uint8)[:size]


def _unpin(address: int) -> None:
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaHostUnregister(address)


def _available(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of main memory that this process may still take, in a container or a Slurm job too."""
    free = psutil.virtual_memory().available
    for group in _groups(root, own):
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            used = int((group / "memory.current").read_text())
            # Files that were read count as used until somebody wants the memory.
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            used -= int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0))
            free = min(free, int((group / "memory.max").read_text()) - used)
    return free


def _groups(root: Path, own: Path) -> list[Path]:
    """The control groups (v2) of this process below ``root``, each of which may set a limit."""
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            if line.startswith("0::"):
                group = root / line[3:].strip().lstrip("/")
                return [one for one in (group, *group.parents) if one.is_relative_to(root)]
    return [root]


def place_in(trained: nn.Module, name: str) -> Tensor | None:
    """The tensor of ``trained`` that a model without adapters calls ``name``, detached; None if there is none."""
    owner, _, leaf = name.rpartition(".")
    try:
        return getattr(base_of(trained.get_submodule(owner)), leaf).detach()
    except AttributeError:
        return None
