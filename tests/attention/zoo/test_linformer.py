import torch

from fvit.attention import LinformerAttention, SoftmaxAttention

from ..suite import randomise


def test_with_identity_projections_it_is_softmax_attention():
    torch.manual_seed(0)
    module = LinformerAttention(16, 4, projected_tokens=7, dtype=torch.float64)
    exact = SoftmaxAttention(16, 4, dtype=torch.float64)
    module.set_layout((2, 3), 1)
    randomise(module)
    exact.load_state_dict({name: value for name, value in module.state_dict().items() if name in exact.state_dict()})
    for projection in (module.key_projection, module.value_projection):
        torch.nn.init.eye_(projection.weight)
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(module(x), exact(x), rtol=1e-12, atol=1e-12)
