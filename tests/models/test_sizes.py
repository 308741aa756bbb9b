import pytest
import torch

from fvit.models import build
from fvit.models.sizes import check_size


@pytest.mark.parametrize(
    ("name", "size", "remedy"),
    [("efficientformerv2_s0", 40, 32), ("efficientformerv2_s0", 48, 64), ("convnextv2_atto", 16, 32)],
)
def test_size_on_which_the_model_would_fail_is_refused_with_one_that_fits(name, size, remedy):
    with torch.device("meta"), pytest.raises(ValueError, match=f"does not run on images of {size} px") as error:
        build(name, size, 10)
    assert f"take data.img_size={remedy}, or another multiple of its stride of 32 px" in str(error.value)
    with torch.device("meta"):
        assert build(name, remedy, 10)(torch.empty(2, 3, remedy, remedy)).shape == (2, 10)


@pytest.mark.parametrize("name", ["swiftformer_xs", "mobilevitv2_050", "fastvit_t8", "casvit_xs"])
def test_model_that_rounds_up_takes_any_size(name):
    with torch.device("meta"):
        assert build(name, 20, 10)(torch.empty(2, 3, 20, 20)).shape == (2, 10)


def test_channels_are_those_of_the_model():
    with torch.device("meta"):
        build("casvit_xs", 20, 10, in_chans=1)


@pytest.mark.parametrize("size", [20, 32])
def test_model_is_left_as_it_was(size):
    model = build("convnextv2_atto", 32, 10)
    model.stages[0].eval()
    parameters = {name: (id(p), p.device.type) for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    if size == 20:
        with pytest.raises(ValueError, match="convnextv2_atto"):
            check_size(model, "convnextv2_atto", size)
    else:
        check_size(model, "convnextv2_atto", size)
    assert {name: (id(p), p.device.type) for name, p in model.named_parameters()} == parameters
    assert [module.training for module in model.modules()] == modes
