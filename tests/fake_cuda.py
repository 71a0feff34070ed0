"""CUDA's operators on tensors without data, on a build of PyTorch that has no CUDA: what autograd keeps of a call.

A CPU build lacks a device guard and hooks for CUDA; an extension registers both, and is loaded before torch looks for
them, so that this runs in a process of its own: ``python tests/fake_cuda.py FOLDER`` reads calls as JSON from stdin,
[kernel, query heads, key heads, width, value width, dtype, dropout, length] each, and writes the bytes of each.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>
using c10::Device, c10::DeviceIndex, c10::Stream;
namespace {
constexpr auto kind = c10::DeviceType::CUDA;
struct Guard final : c10::impl::NoOpDeviceGuardImpl<kind> {
  DeviceIndex deviceCount() const noexcept override { return 1; }
  Device getDevice() const override { return Device(kind, 0); }
  Device exchangeDevice(Device) const override { return Device(kind, 0); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, Device(kind, 0)); }
  Stream getDefaultStream(Device) const override { return Stream(Stream::DEFAULT, Device(kind, 0)); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, Device(kind, 0)); }
};
Guard guard;
c10::impl::DeviceGuardImplRegistrar registrar(kind, &guard);
struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};
using at::CUDAHooksRegistry, at::RegistererCUDAHooksRegistry;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
}
int loaded() { return 1; }
"""
LIBRARIES = ("libc10.so", "libtorch_cpu.so", "libtorch.so", "libshm.so", "libtorch_python.so")
NAME = "txcalc_fake_cuda"


def kept(calls: list[list[Any]], folder: Path) -> list[int] | str:
    """Bytes of each call, or why none can be run here."""
    import torch

    if torch.cuda.is_available():
        return "this PyTorch sees a card"
    for command in ((sys.executable, __file__, "build", str(folder)), (sys.executable, __file__, str(folder))):
        found = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True, check=False)
        if found.returncode:
            return f"the extension was not built or loaded: {(found.stderr.strip() or 'no reason').splitlines()[-1]}"
    answer: list[int] = json.loads(found.stdout.splitlines()[-1])
    return answer


def _build(folder: Path) -> None:
    from torch.utils.cpp_extension import load_inline

    load_inline(NAME, SOURCE, functions=["loaded"], build_directory=str(folder))


def _load(folder: Path) -> None:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None and "torch" not in sys.modules
    for name in LIBRARIES:
        ctypes.CDLL(str(Path(spec.origin).parent / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(folder / f"{NAME}.so"), mode=ctypes.RTLD_GLOBAL)


def _run(kernel: str, heads: int, keys: int, width: int, value_width: int, dtype: str, dropout: float, n: int) -> int:
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    aten, kind = torch.ops.aten, {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    found: dict[int, int] = {}
    alive = []

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        found.setdefault(storage._cdata, storage.nbytes())
        alive.append(storage)
        return tensor

    def states(count: int, size: int) -> Any:
        return torch.empty(2, n, count, size, dtype=kind, device="cuda", requires_grad=True).transpose(1, 2)

    q, k, v = states(heads, width), states(keys, width), states(keys, value_width)
    mask = torch.zeros(n, n, dtype=kind, device="cuda")
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        if kernel == "flash":
            aten._scaled_dot_product_flash_attention(q, k, v, dropout, True)
        elif kernel == "math":
            aten._scaled_dot_product_attention_math(q, k, v, None, dropout, True, enable_gqa=keys < heads)
        else:  # as F.scaled_dot_product_attention prepares keys, values and a mask
            k, v = (x if keys == heads else x.repeat_interleave(heads // keys, 1) for x in (k, v))
            padded = torch.nn.functional.pad(mask, (0, -n % 8))[..., :n] if n % 8 else mask
            bias = None if kernel == "efficient" else padded.expand(2, heads, n, n)
            aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, dropout, bias is None)
    return sum(nbytes for key, nbytes in found.items() if key != mask.untyped_storage()._cdata)


if __name__ == "__main__":
    *verb, where = sys.argv[1:]
    if verb:
        _build(Path(where))
    else:
        _load(Path(where))
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            print(json.dumps([_run(*call) for call in json.loads(sys.stdin.read())]))
