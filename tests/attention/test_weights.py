"""The attention weights that mechanisms return, against what they compute with them."""

import pytest
import torch

from fvit.attention import Mechanism, get, names

PAIRS = ["differential", "gated", "relu", "sigmoid", "softmax", "random", "synthesizer"]


def make(name, dim=12, heads=3, grid=(3, 4), prefix=1, **options):
    torch.manual_seed(0)
    mechanism = get(name)(dim, heads, dtype=torch.float64, **options).eval()
    mechanism.set_layout(grid, prefix)
    for parameter in mechanism.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mechanism


def tokens(count=13, dim=12):
    return torch.randn(2, count, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def textbook(mechanism, x, hidden=None):
    """α and β of equations 1 to 6, per head and image."""
    heads, width = mechanism.num_heads, mechanism.head_dim
    alphas, betas = torch.empty(2, len(x), heads, x.shape[1], dtype=x.dtype)
    for image in range(len(x)):
        q, k = mechanism.q(x[image]), mechanism.k(x[image])
        means = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            seen = q[:, part] if mechanism.logits == "per_head" else q
            logits = torch.stack([token @ mechanism.query_logit[head] for token in seen]) / width**0.5
            if hidden is not None:
                logits[hidden] = -torch.inf
            alphas[image, head] = logits.exp() / logits.exp().sum()
            means.append(sum(weight * token for weight, token in zip(alphas[image, head], q[:, part], strict=True)))
        p = torch.cat(means) * k
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            seen = p[:, part] if mechanism.logits == "per_head" else p
            logits = torch.stack([token @ mechanism.key_logit[head] for token in seen]) / width**0.5
            if hidden is not None:
                logits[hidden] = -torch.inf
            betas[image, head] = logits.exp() / logits.exp().sum()
    return {"query": alphas, "key": betas}


@pytest.mark.parametrize("logits", ["per_head", "full"])
@pytest.mark.parametrize("value", ["shared", "separate"])
@torch.no_grad()
def test_additive_attention_returns_alpha_and_beta(logits, value):
    mechanism = make("additive", logits=logits, value=value)
    found, expected = mechanism.weights(tokens()), textbook(mechanism, tokens())
    assert list(found) == ["query", "key"]
    for name, weights in found.items():
        assert weights.shape == (2, 3, 13)
        torch.testing.assert_close(weights, expected[name], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize(("name", "weights"), [("additive", "query"), ("softmax", "map")])
@torch.no_grad()
def test_weights_are_returned_without_dropout(name, weights):
    """Except β, which depends on the q̄ that was pooled with dropout."""
    mechanism = make(name, attn_drop=0.5)
    in_eval, in_training = (m.weights(tokens())[weights] for m in (mechanism.eval(), mechanism.train()))
    torch.testing.assert_close(in_training, in_eval)


@torch.no_grad()
def test_a_hidden_token_gets_no_weight_in_additive_attention():
    mechanism, mask = make("additive"), torch.ones(2, 1, 1, 13, dtype=torch.bool)
    mask[..., [2, 7]] = False
    found, expected = mechanism.weights(tokens(), mask), textbook(mechanism, tokens(), hidden=[2, 7])
    for name, weights in found.items():
        torch.testing.assert_close(weights, expected[name], rtol=1e-10, atol=1e-12)
        assert not weights[..., [2, 7]].any()


@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_softmax_attention_returns_its_map(qk_norm):
    mechanism, x = make("softmax", qk_norm=qk_norm, norm_layer=torch.nn.LayerNorm), tokens()
    found = mechanism.weights(x)["map"]
    q, k, _ = mechanism.qkv(x).split(12, dim=-1)
    for image, head in ((0, 0), (1, 2)):
        part = slice(4 * head, 4 * head + 4)
        query, key = q[image, :, part], k[image, :, part]
        if qk_norm:
            query, key = (norm(t) for norm, t in ((mechanism.q_norm, query), (mechanism.k_norm, key)))
        logits = torch.tensor([[float(one @ other) for other in key] for one in query], dtype=torch.float64) / 2
        torch.testing.assert_close(found[image, head], logits.exp() / logits.exp().sum(dim=1, keepdim=True))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_the_map_times_the_values_is_the_output(name, masked):
    mechanism, x = make(name, **({} if name not in ("random", "differential") else dict(heads=2))), tokens()
    mask = None
    if masked:
        mask = torch.ones(2, 1, 1, 13, dtype=torch.bool)
        mask[..., 5] = False
    found = mechanism.weights(x, mask)["map"]
    if name == "random":
        values, finish = x.unsqueeze(1), lambda out: out.squeeze(1)
    elif name == "synthesizer":
        values, finish = mechanism.split_heads(mechanism.v(x)), lambda out: mechanism.proj(mechanism.merge_heads(out))
    elif name == "differential":
        values = mechanism.qkv(x)[..., 24:].unflatten(-1, (1, 12)).transpose(1, 2)
        factor = 1 - mechanism.lambda_init
        finish = lambda out: mechanism.proj(mechanism.merge_heads(mechanism.norm(out) * factor))  # noqa: E731
    else:
        values = mechanism.split_heads(mechanism.qkv(x)[..., 24:])
        gate = mechanism.gate(x).sigmoid() if name == "gated" else 1
        finish = lambda out: mechanism.proj(mechanism.merge_heads(out) * gate)  # noqa: E731
    torch.testing.assert_close(finish(found @ values), mechanism(x, mask))
    if masked:
        assert not found[..., 5].any()


def test_causality_reaches_the_map():
    mechanism = make("softmax")
    assert not mechanism.weights(tokens(), is_causal=True)["map"].triu(1).any()


def test_all_other_mechanisms_return_none():
    returning = {name for name in names() if get(name).weights is not Mechanism.weights}
    assert returning == {"additive", "identity", *PAIRS}
    assert make("linear").weights(tokens()) == {}


def test_without_mixing_each_token_attends_to_itself():
    x = tokens()
    assert torch.equal(make("identity").weights(x)["map"][:, 0] @ x, x)
