"""The prepared base: the transformer with the training adapter merged into its weights, then quantised."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from charloom.base import locks
from charloom.base.hub import Log
from charloom.core import files, versions
from charloom.core.canonical import digest
from charloom.core.errors import UserError
from charloom.core.store import Store

T = TypeVar("T")
FULL_PRECISION = "none"
_UNQUANTISED = (FULL_PRECISION, "bf16")
_SCALED = ("float8", "int8")
_KIND = "charloom.quantization"
_SUMS = "charloom.sums"


def key(lock: dict[str, Any], settings: dict[str, Any], device: str = "cpu") -> str:
    """Digest of what the prepared weights depend on; it represents the base in the key of a training run.

    ``device`` is the kind of device that merged the adapter: their products differ in the last bit.
    """
    adapter = lock["adapters"][settings["adapter"]] if settings["adapter"] != "none" else None
    return digest(
        {
            "transformer": lock["components"]["transformer"],
            # An adapter on the hub is identified by its revision, not by a path.
            "adapter": adapter and {name: adapter[name] for name in sorted(adapter) if name != "path"},
            "quantization": settings["quantization"],
            "recipe": settings["recipe"],
            **numbers(settings["quantization"], device),
            **({} if device == "cpu" else {"device": device}),
        }
    )


def numbers(kind: str, device: str = "cpu") -> dict[str, int]:
    """The recipe numbers of what is done for one kind of quantisation."""
    return {
        **({} if kind in _UNQUANTISED else {"choice": versions.QUANTISED_LINEARS}),
        **({"scales": versions.SCALES_ON_CPU} if device == "cpu" and kind in _SCALED else {}),
    }


def make(
    lock: dict[str, Any], settings: dict[str, Any], output: Path, store: Store, tell: Log, device: Any = "cpu"
) -> dict[str, Any]:
    """Write the prepared weights to ``output``; returns the record of what was done.

    fp32 with quantization ``none``, else bf16; float8, int8 and nf4 store the Linears of the blocks in fewer bits. The
    adapter is merged before quantising, which would round it away. Weights go through ``device`` one by one; main
    memory holds those that are finished. If a busy GPU has no room for that, the CPU takes over.

    Raises:
        UserError: the adapter is unknown, belongs to another model, or changes nothing; the disk is full; nf4 without
            bitsandbytes.
    """

    def sorry() -> None:
        tell("the GPU has no room to prepare the base now: the CPU does it, which takes longer")

    return _or_on_cpu(lambda where: _made(lock, settings, output, store, tell, where), device, sorry)


def _or_on_cpu(work: Callable[[Any], T], device: Any, sorry: Callable[[], None] = lambda: None) -> T:
    """``work(device)``; if that GPU has no room for it, ``sorry()`` and the same on the CPU."""
    import torch

    try:
        return work(device)
    except torch.OutOfMemoryError:
        if torch.device(device).type == "cpu":
            raise
    torch.cuda.empty_cache()  # not earlier: frames of the exception hold what was on the GPU
    sorry()
    return work(torch.device("cpu"))


def _made(
    lock: dict[str, Any], settings: dict[str, Any], output: Path, store: Store, tell: Log, device: Any
) -> dict[str, Any]:
    import torch

    from charloom.core.tensors import write_safetensors
    from charloom.kernels import quantize
    from charloom.lora import adapter as adapters
    from charloom.zimage import weights

    dtype = torch.float32 if settings["quantization"] == FULL_PRECISION else torch.bfloat16
    root, single = locks.locate(lock, "transformer", store, tell), locks.single_file(lock, store, tell)
    model, adding = weights.empty_transformer(root), None
    if settings["adapter"] != "none":
        adding = adapters.Merge(model, locks.adapter_file(lock, settings["adapter"], store, tell))
    if (kind := settings["quantization"]) in quantize.KINDS:
        quantize.restructure(model, kind)
    state: dict[str, Any] = {}
    with torch.no_grad():
        for name, tensor in weights.stream(root, dtype, device, single):
            made = quantize.stored(model, name, adding.merged(name, tensor) if adding else tensor)
            state |= {part: value.to("cpu") for part, value in made.items()}
    if kind in quantize.KINDS:
        tell(f"{len(quantize.quantized(model))} Linears of the blocks kept in {kind}")
    digest_ = key(lock, settings, torch.device(device).type)
    record = {"base": lock["name"], "digest": digest_, "merged": adding and adding.report().record(), **settings}
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > (free := shutil.disk_usage(output.parent).free):
        raise UserError(
            f"{output}: needs {size / 1e9:.1f} GB on its disk, which has {free / 1e9:.1f} GB free; free some space"
        )
    with files.whole(output) as temporary:
        header = {"format": "pt", "charloom.base": digest_}
        if kind in quantize.KINDS:
            header[_KIND] = kind
        tensors = {name: state[name] for name in model.state_dict()}
        header[_SUMS] = digest({name: word_sum(tensor) for name, tensor in tensors.items()})
        write_safetensors(temporary, tensors, header)
    return record


def load(lock: dict[str, Any], prepared: Path, dtype: Any, device: Any) -> Any:
    """The prepared transformer, frozen, as :func:`charloom.zimage.weights.load_transformer` gives it.

    ``dtype`` is for the weights that are not quantised. Tensors go to ``device`` one by one, so that none is in memory
    twice; quantised Linears use the fastest product that the device supports. What a GPU cannot hold all at once stays
    in main memory, from where the engine places it block by block.

    Raises:
        UserError: the file is damaged or does not fit the base's config; nf4 without bitsandbytes; weights that the
            device cannot hold.
    """
    return _or_on_cpu(lambda where: _loaded(lock, prepared, dtype, where), device)


def _loaded(lock: dict[str, Any], prepared: Path, dtype: Any, device: Any) -> Any:
    from safetensors import SafetensorError, safe_open

    from charloom.kernels import quantize
    from charloom.zimage import weights
    from charloom.zimage.forward import prepare

    model = weights.empty_transformer(Path(lock["root"]))
    state, fixed, sums = {}, set(), {}
    try:
        with safe_open(str(prepared), framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            if kind := header.get(_KIND):
                quantize.check(kind, device)
                quantize.restructure(model, kind)
                fixed = quantize.stored_names(model)
            for name in file.keys():
                tensor = file.get_tensor(name)
                sums[name] = word_sum(tensor) if _SUMS in header else 0
                state[name] = _aligned(tensor if name in fixed else tensor.to(dtype))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{prepared}: cannot be read ({error}); delete it, so that it is rebuilt") from None
    if header.get(_SUMS, digest(sums)) != digest(sums):
        raise UserError(f"{prepared}: is damaged, its weights have changed; delete it, so that it is rebuilt")
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    if missing or unexpected:
        name = (*missing, *unexpected)[0]
        raise UserError(f"{prepared}: does not fit the base (for example {name}); delete it, so that it is rebuilt")
    quantize.set_mode(model, quantize.best_mode(device))
    return prepare(model.to(device).eval().requires_grad_(False))


def word_sum(tensor: Any) -> int:
    """The sum of a tensor's bytes as 64-bit words, modulo 2^64: a changed bit changes it.

    Taken where the tensor lies, so that it costs a GPU one read of its memory; a SHA-256 of 12 GB takes ten seconds.
    """
    import torch

    data = tensor.contiguous().flatten().view(torch.uint8)
    whole = data.numel() // 8 * 8
    words = _aligned_words(data[:whole]).view(torch.int64)
    return int(words.sum()) + int(data[whole:].to(torch.int64).sum()) & (1 << 64) - 1


def _aligned_words(data: Any) -> Any:
    return data.clone() if data.data_ptr() % 8 or data.storage_offset() % 8 else data


def _aligned(tensor: Any) -> Any:
    """``tensor``, copied if it is not aligned in the mapped file."""
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor
