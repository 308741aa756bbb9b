"""Slow references in float64, written from the formulas: one image, one head and one token at a time.

They share no code with the mechanisms; only the names of the parameters are theirs.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

ADDITIVE_FAULTS = (
    "key_pools_raw_k",
    "key_logits_of_raw_k",
    "softmax_over_heads",
    "softmax_over_one_element",
    "no_scale",
    "no_residual",
    "residual_of_x",
    "logit_bias_multiplied",
)
"""What re-implementations of additive attention were seen to get wrong."""


def additive(
    x: Tensor,
    weights: dict[str, Tensor],
    num_heads: int,
    logits: str,
    key_bias: Tensor | None = None,
    query_logit_bias: Tensor | None = None,
    key_logit_bias: Tensor | None = None,
    fault: str | None = None,
) -> Tensor:
    """Fastformer's equations 1-6 on x [B, N, C]; `key_bias` [B, N] is what a mask adds to the logits."""

    def pool(seen: list[Tensor], summed: list[Tensor], weight: Tensor, bias: Tensor | None, image: int) -> Tensor:
        tokens, head_dim = len(seen), x.shape[2] // num_heads
        scores = []
        for h in range(num_heads):
            part = slice(h * head_dim, (h + 1) * head_dim)
            row = []
            for n in range(tokens):
                score = torch.dot(weight[h], seen[n][part] if logits == "per_head" else seen[n])
                if bias is not None:
                    score = score * bias[h] if fault == "logit_bias_multiplied" else score + bias[h]
                if fault != "no_scale":
                    score = score / math.sqrt(head_dim)
                if key_bias is not None:
                    score = score + key_bias[image, n]
                row.append(score)
            scores.append(row)
        heads = []
        for h in range(num_heads):
            part = slice(h * head_dim, (h + 1) * head_dim)
            total = torch.zeros(head_dim, dtype=x.dtype)
            for n in range(tokens):
                rivals = [scores[h][m] for m in range(tokens)]
                if fault == "softmax_over_heads":
                    rivals = [scores[g][n] for g in range(num_heads)]
                if fault == "softmax_over_one_element":
                    rivals = [scores[h][n]]
                top = max(float(r.detach()) for r in rivals)
                share = torch.exp(scores[h][n] - top) / sum(torch.exp(r - top) for r in rivals)
                total = total + share * summed[n][part]
            heads.append(total)
        return torch.cat(heads)

    images = []
    for b in range(x.shape[0]):
        tokens = range(x.shape[1])
        q = [_linear(weights, "q", x[b, n]) for n in tokens]
        k = [_linear(weights, "k", x[b, n]) for n in tokens]
        v = [_linear(weights, "v", x[b, n]) for n in tokens] if "v.weight" in weights else q
        global_query = pool(q, q, weights["query_logit"], query_logit_bias, b)
        p = [global_query * k[n] for n in tokens]
        global_key = pool(
            k if fault == "key_logits_of_raw_k" else p,
            k if fault == "key_pools_raw_k" else p,
            weights["key_logit"],
            key_logit_bias,
            b,
        )
        rows = []
        for n in tokens:
            out = _linear(weights, "transform", global_key * v[n])
            if fault != "no_residual":
                out = out + (x[b, n] if fault == "residual_of_x" else q[n])
            rows.append(_linear(weights, "proj", out) if "proj.weight" in weights else out)
        images.append(torch.stack(rows))
    return torch.stack(images)


def linear(x: Tensor, weights: dict[str, Tensor], num_heads: int, key_bias: Tensor | None = None) -> Tensor:
    """Katharopoulos et al., equation 5 on x [B, N, C], with the whole N×N matrix of kernel values."""
    batch, tokens, width = x.shape
    head_dim = width // num_heads
    images = []
    for b in range(batch):
        qkv = [_linear(weights, "qkv", x[b, n]) for n in range(tokens)]
        heads = []
        for h in range(num_heads):
            q, k, v = (
                [row[i * width + h * head_dim : i * width + (h + 1) * head_dim] for row in qkv] for i in range(3)
            )
            rows = []
            for i in range(tokens):
                kernel = []
                for j in range(tokens):
                    value = torch.dot(_elu_plus_one(q[i]), _elu_plus_one(k[j]))
                    kernel.append(value if key_bias is None else value * torch.exp(key_bias[b, j]))
                rows.append(sum(kernel[j] * v[j] for j in range(tokens)) / sum(kernel))
            heads.append(torch.stack(rows))
        merged = torch.cat(heads, dim=1)
        images.append(torch.stack([_linear(weights, "proj", merged[n]) for n in range(tokens)]))
    return torch.stack(images)


def _linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = weights[f"{name}.weight"] @ x
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def _elu_plus_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0)))


def randomise(module: nn.Module, std: float = 1.0) -> nn.Module:
    """Give every parameter weights so large that no term of a formula is lost beside the others."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone().requires_grad_() for name, parameter in module.named_parameters()}


def values_and_gradients(
    function: Callable[[Tensor, dict[str, Tensor]], Tensor], x: Tensor, weights: dict[str, Tensor], upstream: Tensor
) -> dict[str, Tensor]:
    """Output of `function` and the gradients of ⟨output, upstream⟩ by x and all weights."""
    x = x.detach().clone().requires_grad_()
    out = function(x, weights)
    sources = {"x": x, **weights}
    gradients = torch.autograd.grad((out * upstream).sum(), list(sources.values()), materialize_grads=True)
    return {"out": out.detach(), **{f"d {name}": g for name, g in zip(sources, gradients, strict=True)}}


def assert_equals_reference(
    module: nn.Module, reference: Callable[[Tensor, dict[str, Tensor]], Tensor], x: Tensor, **forward: Tensor
) -> None:
    """Values and gradients of `module` are those of `reference`, to 1e-10."""
    weights, upstream = weights_of(module), torch.randn_like(x)
    ours = values_and_gradients(lambda x, w: functional_call(module, w, (x,), forward), x, weights, upstream)
    theirs = values_and_gradients(reference, x, weights, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
