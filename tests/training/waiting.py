"""A CPU in the role of a GPU: which lines of a training run would make the host wait for its device.

The weights, and batches that were transferred, count as being on the device, and so does what is computed from them.
A CPU tells by the operators what becomes of such a tensor: its value is read, its values decide about a shape, or it
meets one that was made on the host.
"""

import sys
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch
from lightning import Callback
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import fvit
from fvit.data import ImageDataModule

ROOT = Path(fvit.__file__).parents[2]
_READS = (
    "_local_scalar_dense",
    "nonzero",
    "_unique2",
    "unique_dim",
    "masked_select",
    "bincount",
    "equal",
    "is_nonzero",
)


class Device(TorchDispatchMode):
    """What is on the device, what it computes, and who waits for it; `step` is that of the events."""

    def __init__(self):
        super().__init__()
        self.step = None  # None: not in training
        self.waits = defaultdict(Counter)
        self.operators = defaultdict(Counter)
        self._places = {}  # of storages: "device" or "host"; others may be either

    def put(self, tree, place="device"):
        for tensor in tree_leaves(tree):
            if isinstance(tensor, torch.Tensor):
                storage = StorageWeakRef(tensor.untyped_storage())
                self._places[storage.cdata] = (storage, place)

    def place(self, tensor):
        return self._places.get(tensor.untyped_storage()._cdata, (None, None))[1]

    def holds(self, tree):
        return any(self.place(leaf) == "device" for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))

    def note(self, kind):
        if self.step is not None:
            self.waits[self.step][f"{kind}: {caller()}"] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        places = {self.place(tensor) for tensor in inputs}
        name = func._schema.name.removeprefix("aten::")
        if "device" in places:
            if self.step is not None:
                self.operators[self.step][str(func)] += 1
            masked = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
            if name in _READS or masked:
                self.note(name)
            elif "host" in places:
                self.note("copy")
        result = func(*args, **kwargs)
        if name == "lift_fresh":  # torch.tensor
            self.put(result, "host")
        elif places & {"device", "host"}:
            self.put(result, "device" if "device" in places else "host")
        return result


class Steps(Callback):
    """Puts the weights on the device, and says when a training epoch begins and ends."""

    def __init__(self, device):
        self.device = device

    def on_train_start(self, trainer, module):
        self.device.put([*module.parameters(), *module.buffers()])

    def on_train_epoch_end(self, trainer, module):
        self.device.step = None

    on_validation_start = on_train_epoch_end


def emulate(run):
    """Call `run` with a callback for its trainer, and return the `Device`. Steps are counted in batches, from 1."""
    device, transfer, to = Device(), ImageDataModule.transfer_batch_to_device, torch.Tensor.to
    average = AveragedModel.__init__

    def transferred(data, batch, *further):
        device.step = None  # from pinned memory, this makes nobody wait
        batch = tree_map_only(torch.Tensor, torch.clone, transfer(data, batch, *further))
        device.put(batch)
        device.step = data.trainer.fit_loop.total_batch_idx + 2 if data.trainer.training else None
        return batch

    def moved(tensor, *further, **options):
        result = to(tensor, *further, **options)
        if device.place(tensor) == "host" and is_device(*further, *options.values()):
            device.note("copy")
            device.put(result := result.clone())
        return result

    def made(function):
        def call(values, *further, **options):
            result = function(values, *further, **options)
            if not isinstance(values, torch.Tensor) and is_device(*further, *options.values()):
                device.note("copy")
                device.put(result)
            return result

        return call

    def watched(name):
        method = getattr(torch.Tensor, name)

        def call(tensor, *further, **options):
            if device.holds(tensor):
                device.note(name)
            return method(tensor, *further, **options)

        return call

    def averaged(made_of, *further, **options):
        average(made_of, *further, **options)
        device.put([*made_of.parameters(), *made_of.buffers()])

    # What takes no operator on a CPU.
    patches = [patch.object(torch.Tensor, name, watched(name)) for name in ("tolist", "numpy", "cpu", "__array__")]
    patches += [patch.object(torch, name, made(getattr(torch, name))) for name in ("tensor", "as_tensor")]
    patches += [patch.object(torch.Tensor, "to", moved)]
    patches += [patch.object(ImageDataModule, "transfer_batch_to_device", transferred)]
    patches += [patch.object(AveragedModel, "__init__", averaged)]  # a test of EMA has it on the model's device
    with ExitStack() as stack:
        for one in [*patches, device]:
            stack.enter_context(one)
        run(Steps(device))
    return device


def is_device(*arguments):
    """Whether a device is among them, not only the word "cpu"."""
    return any(isinstance(argument, torch.device) for argument in arguments)


def caller():
    """The innermost line of fvit, and that of the library it calls."""
    frame, lines = sys._getframe(1), []
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and "/torch/" not in path and not path.startswith("<"):
            name = path.rpartition("site-packages/")[2].removeprefix(f"{ROOT}/")
            lines.append(f"{name}:{frame.f_lineno} {frame.f_code.co_name}")
            if "/fvit/" in path or len(lines) == 3:
                break
        frame = frame.f_back
    return " < ".join(lines)
