"""Exchange the attention of a timm model, and keep of its weights what the new one can use."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from fvit.attention import Mechanism
from fvit.models import hosts
from fvit.models.adapters import Adapter
from fvit.models.hosts import Site
from fvit.models.layout import make_telling
from fvit.models.report import BlockReport
from fvit.models.spec import AttentionSpec, BlockSpec, block_indices, expand
from fvit.models.transfer import available, carry, parameters, projections


def exchange(
    model: nn.Module,
    attention: AttentionSpec | Sequence[AttentionSpec],
    blocks: BlockSpec | None = None,
    keep: Sequence[str] = (),
) -> nn.Module:
    """Replace the attention of `model`, in place, and tell the mechanisms how its tokens lie.

    Serves a finished model, pretrained or not, and one under construction (`fvit.models.FViT` calls it last thing)
    alike. The new parameters are initialised in the host's own way, on its device and in its dtype; those that are to
    be kept then take the old ones' values. The rest of the model is not touched, but for position modules that no
    block uses any more (`rope`, a shared bias), which become None. From then on `model.set_input_size` tells the
    mechanisms the new grid, and `model.exchange_report` says what was done to each block.

    Args:
        model: a timm model whose blocks hold timm's attention or one of our mechanisms; see `fvit.models.hosts`.
        attention: one mechanism for all blocks, or a list for them in order: ``["additive*8", "softmax*4"]``
            (``×`` works as well), ``[{"name": "additive", "logits": "full"}, …]``.
        blocks: the blocks to exchange, ``"4-11"`` or ``[0, 1, "4-11"]``; all if None.
        keep: projections of the old attention that the new one takes over, as far as it has them: ``qkv`` or ``q``,
            ``k``, ``v``, each with its bias and norm, and ``proj``. A relative position bias is kept in any case
            where the mechanism can add it.

    Returns:
        `model`, its class a subclass of the former one.

    Raises:
        ValueError: the host cannot take a mechanism; a mechanism, an option or a name in `keep` is unknown; nothing of
            what is to be kept can be; the list's length is not the number of blocks.
    """
    all_sites = hosts.sites(model)
    chosen = _choose(model, all_sites, blocks)
    wanted = projections(keep)
    classes = expand(attention, len(chosen))
    # All are built before the first is put in: a refusal leaves the model as it was.
    new = {site.index: _build(model, all_sites, site, cls) for site, cls in zip(chosen, classes, strict=True)}
    hosts.check_class_token(model, all_sites, new)
    attns = [(site, hosts.stand_in(site.block.attn, new[site.index])) for site in chosen]
    reports = [_fill(model, site, attn, wanted) for site, attn in attns]
    if wanted:
        _check_kept(keep, attns, reports)
    for site, attn in attns:
        site.block.attn = attn
    for name in hosts.shared_positions(model):
        if not any(hosts.uses_shared_positions(site.block.attn) for site in all_sites):
            setattr(model, name, None)
    make_telling(model)
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
    # Of the block, since not every mechanism has parameters.
    parameter = next(site.block.parameters())
    mechanism = cls(dim, **arguments, device=parameter.device, dtype=parameter.dtype)
    # What the host asked for, without the options that are bound to this mechanism alone.
    mechanism.host_args = arguments
    hosts.check_fit(model, all_sites, site, mechanism)
    # Before the initialisation, which so meets parameters of their final size.
    mechanism.set_layout(site.grid, site.prefix, site.index)
    hosts.initialise(model, site.index, mechanism)
    return mechanism.train(site.block.attn.training)


def _fill(model: nn.Module, site: Site, attn: nn.Module, wanted: Sequence[str]) -> BlockReport:
    """Carry the wanted weights over to the new attention of a site, and report it."""
    old, new = parameters(site.block.attn), parameters(attn)
    carried = {*carry(old, new, wanted), *(name for name in new if name.startswith("rel_pos."))}
    lost = hosts.uses_shared_positions(site.block.attn) and not hosts.uses_shared_positions(attn)
    return BlockReport(
        block=site.index,
        old=type(site.mechanism or site.block.attn).__name__,
        new=type(attn.mechanism if isinstance(attn, Adapter) else attn).__name__,
        kept=tuple(name for name in new if name in carried),
        initialised=tuple(name for name in new if name not in carried),
        dropped=(*(name for name in old if name not in carried), *(hosts.shared_positions(model) if lost else ())),
    )


def _check_kept(keep: Sequence[str], attns: Sequence[tuple[Site, nn.Module]], reports: Sequence[BlockReport]) -> None:
    """Raise ValueError if no projection could be kept in any block."""
    if not attns:
        raise ValueError(f"keep={keep!r} has no effect where no block is exchanged")
    wanted = {f"{part}.weight" for part in projections(keep)}
    if any(wanted & set(report.kept) for report in reports):
        return
    site, attn = attns[0]
    raise ValueError(
        f"of keep={keep!r} nothing can be kept: {reports[0].old} has {_list(parameters(site.block.attn))}, and "
        f"{reports[0].new} has {_list(parameters(attn))}"
    )


def _list(found: Mapping[str, Tensor]) -> str:
    return ", ".join(available(found)) or "no projection"
