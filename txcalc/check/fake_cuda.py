"""CUDA's operators on tensors without data, on a build of PyTorch that has no CUDA: what the reference keeps and holds.

A CPU build lacks a device guard, hooks and kernels for CUDA. An extension (``fake_cuda.cpp``) brings the first two, and
its file is loaded before torch looks for them, so that all this runs in a process of its own: ``ask`` starts it once
and hands it one measurement after another. What it does not show is what a kernel allocates inside.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from txcalc.spec.model import Model

SOURCE: Final = Path(__file__).with_suffix(".cpp")
LIBRARIES: Final = ("libc10.so", "libtorch_cpu.so", "libtorch.so", "libshm.so", "libtorch_python.so")
COMPOSED: Final = ("_fused_rms_norm", "silu_backward", "mish_backward")
"""Operators with a kernel on CUDA that PyTorch composes of others where there is none (native_functions.yaml)."""


IN_PLACE: Final = ("_fused_sgd_", "_fused_adagrad_")
"""Kernels that only change what they are given, and that no fake tensor knows."""


class NotRun(Exception):
    """There is no fake CUDA here; the message says why."""


def ask(what: str, model: Model | Mapping[str, Any], batch: int, seq: int, **run: Any) -> Any:
    """Results of a function of ``txcalc.check.measure``, on tensors that say they are CUDA's.

    Of a ``config.json``: one of ``txcalc.check.classes``; or one of another module, by its whole name. ``run``: its
    other arguments, ``dtype`` by name. Raises ``NotRun`` where there is no fake CUDA, and RuntimeError with the reason
    if the measurement itself fails.
    """
    process = start()
    assert process.stdin is not None and process.stdout is not None
    given = model.to_data() if isinstance(model, Model) else dict(model)
    process.stdin.write(json.dumps([what, given, batch, seq, run]) + "\n")
    process.stdin.flush()
    found = json.loads(process.stdout.readline() or '{"error": "the process ended"}')
    if isinstance(found, dict):
        raise RuntimeError(found["error"])
    return found


@functools.cache
def start() -> subprocess.Popen[str]:
    """Start the process that measures. Raises ``NotRun``."""
    command = [sys.executable, "-m", __name__, str(_built())]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=found)


@functools.cache
def _built() -> Path:
    """The extension's file in the user's cache, made if it is not there."""
    import platformdirs
    import torch
    from torch.utils.cpp_extension import include_paths

    if torch.version.cuda or torch.version.hip:
        raise NotRun("this PyTorch is built for a card; the extension is for CPU builds")
    if not sys.platform.startswith("linux"):
        raise NotRun("the extension is for Linux")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise NotRun("the extension needs a C++ compiler, such as g++")
    mark = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    made = platformdirs.user_cache_path("txcalc") / f"fake_cuda-{mark}.so"
    if made.exists():
        return made
    libraries = Path(torch.__file__).parent / "lib"
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", f"-L{libraries}", "-lc10", "-ltorch_cpu"]
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as folder:
            part = Path(folder) / made.name
            command = [compiler, str(SOURCE), *(f"-I{path}" for path in include_paths()), *options, "-o", str(part)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if "error" in line]
                raise NotRun(f"the extension does not compile: {errors[0] if errors else done.stderr.strip()}")
            part.replace(made)
    except OSError as error:
        raise NotRun(f"the extension cannot be built: {error}") from None
    return made


# ---------------------------------------------------------------- the process of its own


def _load(extension: Path) -> ctypes.CDLL:
    """Load the extension between torch's libraries and torch, and give its operators to CUDA."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None and "torch" not in sys.modules
    for name in LIBRARIES:
        ctypes.CDLL(str(Path(spec.origin).parent / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(extension), mode=ctypes.RTLD_GLOBAL)


def _on_cuda() -> Any:
    """Operators that a card has and a CPU has not. Returns what must live as long as they are needed."""
    import torch
    from torch._decomp import meta_table
    from torch._meta_registrations import _create_grouped_mm_output_tensor
    from torch._subclasses.fake_impls import register_op_impl
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

    def without_data(*_: Any, **__: Any) -> None:
        raise AssertionError("fake tensors have no data")

    torch.cuda.amp.common.amp_definitely_not_available = lambda: False  # else autocast turns itself off
    for name, answer in (("is_bf16_supported", True), ("get_device_capability", (9, 0)), ("_lazy_init", None)):
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    library = torch.library.Library("aten", "IMPL")
    for name in COMPOSED:
        library.impl(name, without_data, "CUDA")
    @register_op_impl(torch.ops.aten._scaled_dot_product_efficient_attention.default)  # type: ignore[untyped-decorator]
    def seeds_on_the_host(mode: FakeTensorMode, func: Any, *args: Any, **kwargs: Any) -> tuple[FakeTensor, ...]:
        """The kernel's seed and offset are on the CPU, unless a graph is captured (transformers/cuda/attention.cu)."""
        with in_kernel_invocation_manager(mode):
            found = func(*args, **kwargs)
        devices = (args[0].device, args[0].device, torch.device("cpu"), torch.device("cpu"))
        return tuple(FakeTensor(mode, x, device) for x, device in zip(found, devices, strict=True))

    def contiguous(mode: FakeTensorMode, func: Any, *args: Any, **kwargs: Any) -> tuple[FakeTensor | None, ...]:
        """The kernel's gradients are contiguous, however those that it is given lie (cuda/layer_norm_kernel.cu,
        ``LEGACY_CONTIGUOUS_MEMORY_FORMAT`` in it). Weights stand before the last argument, which are wanted."""
        *given, wanted = args
        learned = given[-len(wanted) + 1:]
        with mode:
            return tuple(each.new_empty(each.shape) if want and each is not None else None
                         for each, want in zip((given[1], *learned), wanted, strict=True))

    for norm_backward in (torch.ops.aten._fused_rms_norm_backward, torch.ops.aten.native_layer_norm_backward):
        register_op_impl(norm_backward.default)(contiguous)  # type: ignore[no-untyped-call]
        meta_table[norm_backward.default] = contiguous  # else its decomposition is run

    for name in IN_PLACE:
        register_op_impl(getattr(torch.ops.aten, name).default)(lambda *_, **__: None)  # type: ignore[no-untyped-call]

    grouped_mm = torch.ops.aten._grouped_mm.default

    @register_op_impl(grouped_mm)  # type: ignore[untyped-decorator]
    def in_any_dtype(mode: FakeTensorMode, func: Any, *args: Any, **kwargs: Any) -> FakeTensor:
        """There is a kernel for bf16, and a loop over groups for other dtypes (cuda/GroupedBlas.cpp)."""
        a, b, bounds, *_ = args
        with mode:
            made: FakeTensor = _create_grouped_mm_output_tensor(a, b, bounds, None)
        return made

    meta_table[grouped_mm] = in_any_dtype

    return library


def _answer(extension: ctypes.CDLL, what: str, given: dict[str, Any], batch: int, seq: int, run: dict[str, Any]) -> Any:
    from txcalc.check import measure

    extension.txcalc_attention(run["attention"].encode())
    run |= {name: measure.DTYPES[run[name]] for name in ("dtype", "autocast") if name in run}
    of_class, (module, _, name) = "architectures" in given, what.rpartition(".")
    own = "classes" if of_class else "whole_step" if what == "step_live_bytes" else "measure"
    function = getattr(importlib.import_module(module or f"txcalc.check.{own}"), name)
    return function(given if of_class else Model.from_data(given), batch, seq, device="fake-cuda", **run)


def _serve(extension: Path) -> None:
    loaded = _load(extension)
    keep = _on_cuda()
    for line in sys.stdin:
        try:
            found = _answer(loaded, *json.loads(line))
        except Exception as error:  # it is told, and the next one goes on
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)
    del keep
    sys.stdout.flush()
    os._exit(0)  # autograd's thread for the device never ends


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
