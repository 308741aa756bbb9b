"""Exchange the attention of a timm model, with transfer of the weights that the new attention can use."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn

from fvit.attention import Mechanism
from fvit.attention.registry import unbound
from fvit.attention.value_residual import FirstValues
from fvit.models import hosts
from fvit.models.adapters import Adapter
from fvit.models.hosts import Site
from fvit.models.spec import AttentionSpec, BlockSpec, block_indices, expand
from fvit.models.transfer import (
    KEEP,
    available_projections,
    parameters,
    requested_projections,
    transfer_all,
    transfer_projections,
)


@dataclass(frozen=True)
class BlockReport:
    """What an exchange did to one block.

    Parameters are named after their projection, joint or not: `q.weight` may be the first third of `qkv.weight`.

    Attributes:
        block: index of the block.
        old: class of the attention that was replaced.
        new: class of the mechanism.
        kept: parameters of the new attention with values of the old one.
        initialised: parameters of the new attention that are newly initialised.
        dropped: parameters of the old attention that were not transferred, and the host's position modules that only
            the old one used (`rope`, `rel_pos_bias`, `shared_rel_pos`).
    """

    block: int
    old: str
    new: str
    kept: tuple[str, ...]
    initialised: tuple[str, ...]
    dropped: tuple[str, ...]


class ExchangedHost:
    """Mixin of hosts with exchanged attention: tells the mechanisms the token layout when the input size changes."""

    exchange_report: tuple[BlockReport, ...] = ()
    """The last exchange of each block, in order of the blocks."""
    first_values: FirstValues | None = None
    """What blocks with a value residual share."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """timm's `forward`, after which the blocks share nothing any more."""
        out = super().forward(x, *args, **kwargs)
        if self.first_values is None:
            return out
        if getattr(self, "grad_checkpointing", False):
            self.first_values.release_until_backward(out)
        else:
            self.first_values.release()
        return out

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """timm's `set_input_size`, then `Mechanism.set_layout` for each site."""
        super().set_input_size(*args, **kwargs)
        for site in hosts.sites(self):
            if site.mechanism is not None:
                site.mechanism.set_layout(site.grid, site.prefix, site.index)


def exchange(
    model: nn.Module,
    attention: AttentionSpec | Sequence[AttentionSpec],
    blocks: BlockSpec | None = None,
    keep: Sequence[str] | None = None,
) -> nn.Module:
    """Replace the attention of `model` in place.

    New parameters are initialised as the host initialises its own, on the same device and in the same dtype, and then
    take the values of the projections that the old attention has too, or of those in `keep` alone. Everything else
    stays, except position modules that no block uses any more (`rope`, a shared bias), which become None.
    `model.set_input_size` also updates the mechanisms from now on, and `model.exchange_report` lists what was done to
    each block.

    Args:
        model: a timm model, pretrained or not; `fvit.models.hosts` lists the supported ones.
        attention: one mechanism for all blocks, or a list with one per block: ``["additive*8", "softmax*4"]``
            (``×`` works as well), ``[{"name": "additive", "logits": "full"}, …]``.
        blocks: the blocks to exchange, ``"4-11"`` or ``[0, 1, "4-11"]``; all if None.
        keep: projections of the old attention whose weights are transferred if the new one has them: ``qkv`` or ``q``,
            ``k``, ``v``, each with its bias and norm, and ``proj``. None: all of them and, from a mechanism to the same
            one, everything that fits. A relative position bias is always transferred to a mechanism that can add it.

    Returns:
        `model`, whose class is now a subclass of the former one.

    Raises:
        ValueError: unsupported host, unknown mechanism, option or name in `keep`, a list of the wrong length, or a
            `keep` of which no projection can be transferred. `model` is then unchanged.
    """
    all_sites = hosts.sites(model)
    chosen = _choose(model, all_sites, blocks)
    requested_projections(keep or ())
    classes = expand(attention, len(chosen))
    # All mechanisms are built before the first is inserted, so that an error leaves the model unchanged.
    new = {site.index: _build(model, all_sites, site, cls) for site, cls in zip(chosen, classes, strict=True)}
    hosts.check_class_token(model, all_sites, new)
    hosts.check_first_block(model, all_sites, new)
    attns = [(site, hosts.wrap(site.block.attn, new[site.index])) for site in chosen]
    reports = [_transfer(model, site, attn, keep) for site, attn in attns]
    if keep:
        _check_transfer(keep, attns, reports)
    for site, attn in attns:
        site.block.attn = attn
    for name in hosts.shared_positions(model):
        if not any(hosts.uses_shared_positions(site.block.attn) for site in all_sites):
            setattr(model, name, None)
    if not isinstance(model, ExchangedHost):
        model.__class__ = _exchanged(type(model))
    model.first_values = hosts.share_first_values(all_sites)
    by_block = {report.block: report for report in (*model.exchange_report, *reports)}
    model.exchange_report = tuple(by_block[index] for index in sorted(by_block))
    return model


def _choose(model: nn.Module, all_sites: list[Site], blocks: BlockSpec | None) -> list[Site]:
    for site in all_sites:
        hosts.check_exchangeable(model, site)
    if blocks is None:
        return all_sites
    indices = block_indices(blocks)
    if wrong := [index for index in indices if not 0 <= index < len(all_sites)]:
        raise ValueError(f"blocks {wrong} do not exist; the model has blocks 0 to {len(all_sites) - 1}")
    return [all_sites[index] for index in indices]


def _build(model: nn.Module, all_sites: list[Site], site: Site, cls: type[Mechanism]) -> Mechanism:
    """The new mechanism of a site, initialised."""
    old = site.mechanism
    if old is not None:
        dim, arguments = old.dim, old.host_args
    else:
        dim, arguments = hosts.read_arguments(site, parameters(site.block.attn))
    # Of the block, because some mechanisms have no parameters.
    parameter = next(site.block.parameters())
    mechanism = cls(dim, **arguments, device=parameter.device, dtype=parameter.dtype)
    # Without the options that are bound to this mechanism, for the next exchange.
    mechanism.host_args = arguments
    hosts.check_fit(model, all_sites, site, mechanism)
    # Before the initialisation, because it may resize parameters.
    mechanism.set_layout(site.grid, site.prefix, site.index)
    hosts.initialise(model, site.index, mechanism)
    return mechanism.train(site.block.attn.training)


def _transfer(model: nn.Module, site: Site, attn: nn.Module, keep: Sequence[str] | None) -> BlockReport:
    """Transfer weights from the attention at `site` to `attn`."""
    old, new = parameters(site.block.attn), parameters(attn)
    projections = requested_projections(KEEP if keep is None else keep)
    kept = {*transfer_projections(old, new, projections), *(name for name in new if name.startswith("rel_pos."))}
    if keep is None and _kind(site.block.attn) is _kind(attn):
        kept |= {*transfer_all(site.block.attn, attn)}
    loses_positions = hosts.uses_shared_positions(site.block.attn) and not hosts.uses_shared_positions(attn)
    return BlockReport(
        block=site.index,
        old=_kind(site.block.attn).__name__,
        new=_kind(attn).__name__,
        kept=tuple(name for name in new if name in kept),
        initialised=tuple(name for name in new if name not in kept),
        dropped=(
            *(name for name in old if name not in kept),
            *(hosts.shared_positions(model) if loses_positions else ()),
        ),
    )


def _kind(attn: nn.Module) -> type[nn.Module]:
    """The class of a mechanism, without bound options, or of one of timm's attentions."""
    return unbound(type(attn.mechanism if isinstance(attn, Adapter) else attn))


def _check_transfer(
    keep: Sequence[str],
    attns: Sequence[tuple[Site, nn.Module]],
    reports: Sequence[BlockReport],
) -> None:
    """Raise ValueError if no requested projection could be transferred in any block."""
    if not attns:
        raise ValueError(f"keep={keep!r} has no effect where no block is exchanged")
    projections = requested_projections(keep)
    if any(f"{part}.weight" in report.kept for part in projections for report in reports):
        return
    site, attn = attns[0]
    old, new = (
        ", ".join(available_projections(parameters(module))) or "no projection" for module in (site.block.attn, attn)
    )
    raise ValueError(
        f"keep={keep!r}: none of these can be transferred; {reports[0].old} has {old}, and {reports[0].new} has {new}"
    )


@torch.no_grad()
def carry_over(old: nn.Module, new: nn.Module, keep: Sequence[str] | None) -> None:
    """Copy the weights of one host into another that differs from it in its attentions.

    Attentions of the same kind are copied whole, others by projection, as in `exchange`; `new.exchange_report` lists
    the blocks in which they differ.

    Args:
        old: the host to copy from.
        new: one of the same architecture and input size, changed in place.
        keep: as in `exchange`.

    Raises:
        ValueError: no projection in `keep` can be transferred in any block.
    """
    sites, attns = hosts.sites(old), [site.block.attn for site in hosts.sites(new)]
    inside = {id(tensor) for attn in attns for tensor in attn.state_dict(keep_vars=True).values()}
    theirs = old.state_dict()
    for name, tensor in new.state_dict(keep_vars=True).items():
        if id(tensor) not in inside and name in theirs and theirs[name].shape == tensor.shape:
            tensor.copy_(theirs[name])
    pairs = list(zip(sites, attns, strict=True))
    reports = [_transfer(new, site, attn, keep) for site, attn in pairs]
    if keep:
        _check_transfer(keep, pairs, reports)
    new.exchange_report = tuple(report for report in reports if report.old != report.new or report.initialised)


@functools.cache
def _exchanged(host: type[nn.Module]) -> type[nn.Module]:
    """`host` with `ExchangedHost`. Unlike bound hooks, a new class keeps a finished model deep-copyable."""
    body = {"__doc__": host.__doc__, "__module__": host.__module__, "__reduce__": _reduce}
    return type(host.__name__, (ExchangedHost, host), body)


def _reduce(model: nn.Module) -> tuple[Any, ...]:
    """Pickle through the host's class, which can be imported by name, unlike the class made from it."""
    return _rebuild, (type(model).__bases__[1],), model.__dict__


def _rebuild(host: type[nn.Module]) -> nn.Module:
    cls = _exchanged(host)
    return cls.__new__(cls)


def exchange_rows(model: nn.Module) -> list[tuple[str, str, str, str, str]]:
    """`model.exchange_report` as rows of a table: blocks, attention, kept, initialised, dropped.

    Consecutive blocks with the same outcome share a row, and a weight and its bias a name. Empty if nothing was
    exchanged.
    """

    def content(report: BlockReport) -> tuple[str, ...]:
        names = (_modules(names) for names in (report.kept, report.initialised, report.dropped))
        return (f"{report.old} → {report.new}", *names)

    # Among consecutive blocks, the difference of block index and position in the list is constant.
    runs = groupby(
        enumerate(getattr(model, "exchange_report", ())), key=lambda pair: (pair[1].block - pair[0], content(pair[1]))
    )
    rows = []
    for (_, columns), run in runs:
        blocks = [report.block for _, report in run]
        rows.append((str(blocks[0]) if len(blocks) == 1 else f"{blocks[0]}-{blocks[-1]}", *columns))
    return rows


def _modules(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(name.removesuffix(".weight").removesuffix(".bias") for name in names)) or "–"
