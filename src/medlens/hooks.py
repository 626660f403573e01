"""The only file that registers hooks or replaces modules. Everything is a context manager, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medlens.errors import BadModel

TINY = 20_000_000  # parameters

Keep = Callable[[Tensor], Tensor]  # a tensor to the part of it that is wanted


class Call(NamedTuple):
    """What a module is called with; of a block, everything but the hidden state."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _InPlace(nn.Module):
    """Stands where a block stood, and is of its kind to whoever asks: some decoders ask for a block's kind of attention."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = [block]  # in a list, so that the block is not registered as a child and moved or saved with this

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"][0], name)


class _StandIn(_InPlace):
    """Stands where a block stood: writes down how it was called and hands on zeros, so that what enters the next one is what the
    model itself adds to the state between the two. `entered` is None where that is nothing, as it is in most."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.entered: Tensor | None = None
        self.call: Call | None = None

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.call = Call(args, kwargs)
        if not hidden.any():
            return hidden  # the zeros of the one before: no need for as many of them as there are blocks
        self.entered = hidden
        return torch.zeros_like(hidden)


@contextmanager
def stand_ins(decoder: nn.Module) -> Iterator[list[_StandIn]]:
    """Replace `decoder.layers` by stand-ins for as long as the context lasts: the model's own forward then prepares everything
    that its blocks need (masks, positions, rotary embeddings), whatever family it is, and computes none of them."""
    blocks = decoder.layers
    assert isinstance(blocks, nn.ModuleList)
    standing = [_StandIn(block) for block in blocks]
    decoder.layers = nn.ModuleList(standing)
    try:
        yield standing
    finally:
        decoder.layers = blocks


class Instead(_InPlace):
    """A function of the hidden state in the place of a block."""

    def __init__(self, block: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(block)
        self._function = function

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return self._function(hidden)


@contextmanager
def blocks_as(decoder: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """With these blocks in the place of `decoder.layers`, fewer or other ones."""
    before = decoder.layers
    decoder.layers = nn.ModuleList(blocks)
    try:
        yield
    finally:
        decoder.layers = before


@contextmanager
def outputs_of_each(modules: Sequence[nn.Module], keep: Keep = lambda whole: whole) -> Iterator[list[Tensor]]:
    """Collect what the modules return, or what `keep` makes of it, in the order of the calls; of a tuple, its first part."""
    collected: list[Tensor] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        collected.append(keep(output[0] if isinstance(output, tuple) else output))

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(note).remove)
        yield collected


@contextmanager
def inputs_of_each(modules: Sequence[nn.Module], keep: Keep = lambda whole: whole) -> Iterator[list[Tensor]]:
    """Collect the first argument of every call of the modules, or what `keep` makes of it, in the order of the calls."""
    collected: list[Tensor] = []

    def note(_module: nn.Module, inputs: Any) -> None:
        collected.append(keep(inputs[0]))

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(note).remove)
        yield collected


def inputs_of(module: nn.Module) -> AbstractContextManager[list[Tensor]]:
    """Collect the first argument of every call of `module`."""
    return inputs_of_each([module])


@contextmanager
def changed_input(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Hand `change(first argument)` to `module` in the place of its first argument."""
    handle = module.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def changed_call(module: nn.Module, change: Callable[[Call], Call]) -> Iterator[None]:
    """Call `module` with what `change` makes of the call."""

    def changed(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call = change(Call(args, kwargs))
        return call.args, call.kwargs

    handle = module.register_forward_pre_hook(changed, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def changed_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Hand on `change(what module returns)`, of a tuple its first part, in the place of that."""

    def changed(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = module.register_forward_hook(changed)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replaced_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let `module` work, and return `change(first argument)` in the place of what it returns (of a tuple, of its first part)."""

    def instead(_module: nn.Module, inputs: Any, output: Any) -> Any:
        new = change(inputs[0])
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module.register_forward_hook(instead)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[Call]]:
    """Collect what `module` is called with."""
    collected: list[Call] = []
    noted = module.register_forward_pre_hook(lambda _, args, kwargs: collected.append(Call(args, kwargs)), with_kwargs=True)
    try:
        yield collected
    finally:
        noted.remove()


@contextmanager
def while_each_works(modules: Sequence[nn.Module], before: Callable[[int], Any], after: Callable[[int], Any]) -> Iterator[None]:
    """Call `before(k)` whenever the k-th module is about to work, and `after(k)` when it has, or has failed to."""
    with ExitStack() as stack:
        for k, module in enumerate(modules):
            stack.callback(module.register_forward_pre_hook(_told(before, k)).remove)
            stack.callback(module.register_forward_hook(_told(after, k), always_call=True).remove)
        yield


def _told(tell: Callable[[int], Any], k: int) -> Callable[..., None]:
    """As a hook, which must return nothing: torch would take it for the module's input or output."""

    def hook(*_: Any) -> None:
        tell(k)

    return hook


@contextmanager
def attentions_of(block: nn.Module, keep: Callable[[Tensor], Tensor] = lambda weights: weights) -> Iterator[list[Tensor]]:
    """Collect the attention weights (1, heads, T, T) that a block's attention returns, or what `keep` makes of them; needs the
    eager implementation."""
    inner = getattr(block, "self_attn", None)
    if inner is None:
        raise BadModel(f"{type(block).__name__} has no `.self_attn`: this family's attention cannot be read yet")
    collected: list[Tensor] = []
    handle = inner.register_forward_hook(lambda _module, _inputs, output: collected.append(keep(output[1])))
    try:
        yield collected
    finally:
        handle.remove()


@contextmanager
def attention(module: Any, implementation: str) -> Iterator[None]:
    """Run the model's decoder with another attention implementation ("eager" is the one that returns its weights). The vision tower
    keeps its own, which may be another than the decoder's."""
    decoder, before = module.get_decoder(), attention_of(module)
    decoder.set_attn_implementation(implementation)
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)


def attention_of(module: Any) -> str:
    """The attention implementation that the model's decoder runs with."""
    return module.get_decoder().config._attn_implementation


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter of these modules wants a gradient, so that a graph through them keeps nothing for their sake."""
    wanting = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients; and one thread for a tiny model, which more threads only slow down
    (fifty-fold, on a machine that has something else to do). All is put back."""
    training, threads = module.training, torch.get_num_threads()
    module.eval()
    if sum(p.numel() for p in module.parameters()) < TINY:
        torch.set_num_threads(1)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        module.train(training)
