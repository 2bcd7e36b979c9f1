"""A GPU that is not there: tensors that say they lie on cuda:0 and are computed on the CPU.

No machine of the tests has a GPU, so nothing else would notice code that leaves a tensor on the wrong device, or makes
the processor wait for the GPU. Within :class:`PretendGPU`

- ``.to(GPU)``, factories with ``device=GPU`` and ``.cpu()`` work, and what is computed stays where it was (``"cuda"``
  without a number does not: torch then asks the driver which GPU is meant);
- an operator that is given tensors of both devices raises, but for what torch allows: plain tensors of no dimension,
  plain indices, copies. So does a random generator of the other device;
- ``waits`` lists what made the processor wait: the values that were read, and the copies to the CPU; ``unpinned`` the
  copies to the GPU for which it waits as well, of memory that is not pinned or without ``non_blocking``, and of the
  numbers of rows that are chosen.

What it cannot tell: anything of CUDA's own kernels (their rounding, types, determinism), autocast (the dispatcher takes
the tensors for those of "meta"), memory and streams, and what a file says of a tensor's device (it is pickled as one of
the CPU). Operators that change the shape of a tensor in place, and assignments to ``.data``, are not seen. It leans
on torch's internals ``_make_wrapper_subclass``, ``TorchDispatchMode`` and ``torch.cuda._lazy_init``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
#: Operators whose result the processor must know, if only its shape.
READS = {
    "_local_scalar_dense",
    "equal",
    "allclose",
    "repeat_interleave",
    "nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "masked_select",
}
INDEXED = {"index", "index_put", "index_put_", "_unsafe_index"}


class OnGPU(Tensor):
    """A tensor on the pretended GPU; ``inner`` is the CPU's that holds its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGPU:
        with torch.inference_mode(inner.is_inference()):  # a view of a normal tensor is one in either mode
            layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
            self = Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device="meta")
        self.inner = inner
        return self

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def cuda(self, *_: Any, **__: Any) -> Tensor:
        return self

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({self.inner!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, [])


class PretendGPU(TorchDispatchMode):
    """Within, there is a GPU. Everything that is changed for that is restored afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.unpinned: list[str] = []
        self._pinned: dict[int, Tensor] = {}
        self._entered = 0

    def __enter__(self) -> PretendGPU:
        if not self._entered:
            future = torch.__future__
            self._before = torch.cuda._lazy_init, torch.tensor, future.get_overwrite_module_params_on_conversion()
            if not torch.cuda.is_available():  # a real one may be initialised as ever
                torch.cuda._lazy_init = lambda: None
            torch.tensor = partial(_tensor, torch.tensor)
            future.set_overwrite_module_params_on_conversion(True)  # instead of assignments to .data
        self._entered += 1
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._entered -= 1
        if not self._entered:
            torch.cuda._lazy_init, torch.tensor, overwrites = self._before
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _is_composite(func):
            with self:  # in inference mode they come undivided
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        if func is aten._pin_memory.default:
            pinned = args[0].clone()
            self._pinned[id(pinned)] = pinned
            return pinned
        result = _run(func, args, kwargs or {}, self.waits)
        if (
            func is aten.index.Tensor
            and isinstance(args[0], OnGPU)
            and any(type(t) is Tensor for t in _tensors(args[1]))
        ):
            self.unpinned.append("index")
        moved = func is aten._to_copy.default and isinstance(result, OnGPU) and not isinstance(args[0], OnGPU)
        if moved and not (id(args[0]) in self._pinned and kwargs.get("non_blocking")):
            self.unpinned.append(f"{tuple(args[0].shape)}")
        return result


def _tensor(real: Any, data: Any, *, device: Any = None, **options: Any) -> Tensor:
    """``torch.tensor``, which asks for a driver before any operator is called."""
    return real(data, **options) if device is None else real(data, **options).to(device)


@cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    """An operator's argument or result with each leaf changed; many times as quick as torch's own tree_map."""
    if isinstance(value, (list, tuple)):
        return type(value)([_map(change, part) for part in value])
    return change(value)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _unwrap(value: Any) -> Any:
    return value.inner if isinstance(value, OnGPU) else value


def _run(func: Any, args: Any, kwargs: dict[str, Any], waits: list[str]) -> Any:
    """An operator on the tensors' CPU counterparts, its results on the device where torch would put them."""
    name, device = func.overloadpacket.__name__, kwargs.get("device")
    known = {id(t.inner): t for t in _tensors((args, *kwargs.values())) if isinstance(t, OnGPU)}
    kind = None if device is None else torch.device(device).type
    if kind == "meta" and (known or func is aten._to_copy.default):
        kind = "cuda"  # the dispatcher takes an OnGPU for a tensor of "meta", as in cpu.to(gpu)
    there = bool(known) if kind is None else kind == "cuda"
    if not known and not there:
        return func(*args, **kwargs)
    if func is aten.copy_.default:
        there = isinstance(args[0], OnGPU)
    elif func is not aten._to_copy.default and device is None:
        _check_devices(name, args, kwargs)
    generator = kwargs.get("generator")
    if there and generator is not None:
        raise RuntimeError(f"{name}: expected a 'cuda' device type for generator but found '{generator.device.type}'")
    boolean = name in INDEXED and any(t.dtype == torch.bool for t in _tensors(args[1]))
    if known and (name in READS or boolean or not there):
        waits.append(name)

    dropped = {"device", "pin_memory"} if there or func is aten._to_copy.default else {"pin_memory"}
    options = {key: _map(_unwrap, value) for key, value in kwargs.items() if key not in dropped}
    result = func(*_map(_unwrap, args), **options)

    def wrap(value: Any) -> Any:
        if id(value) in known:
            return known[id(value)]
        return OnGPU(value) if there and isinstance(value, Tensor) else value

    return _map(wrap, result)


def _check_devices(name: str, args: Any, kwargs: Any) -> None:
    used = (args[0], args[2:]) if name in INDEXED and isinstance(args[0], OnGPU) else args
    shapes = [tuple(t.shape) for t in _tensors((used, *kwargs.values())) if not isinstance(t, OnGPU) and t.ndim]
    if shapes:
        raise RuntimeError(f"{name}: expected all tensors on one device, found cuda:0, and cpu for {shapes}")
