"""Teachers: frozen, with their own normalisation, from fvit's checkpoints and from timm."""

import copy

import pytest
import timm
import torch
from torch import nn

from fvit.training import Classifier
from fvit.training.teacher import Teacher, load_teacher

HALF = ((0.5,) * 3, (0.5,) * 3)
OTHER = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def normalised(mean, std):
    return (IMAGES - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


class Mean(nn.Module):
    """Returns the mean of each channel."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.gain * images.mean(dim=(2, 3))


@pytest.mark.parametrize("wanted", [HALF, OTHER], ids=["the same", "another"])
def test_teacher_renormalises_the_students_images(wanted):
    teacher = Teacher(Mean(), "", HALF, wanted)
    expected = normalised(*wanted).mean(dim=(2, 3))
    torch.testing.assert_close(teacher(normalised(*HALF)), expected, rtol=1e-5, atol=1e-6)


def test_teacher_is_frozen_and_shared_by_copies():
    model = Mean().train()
    teacher = Teacher(model, "", HALF, HALF)
    assert not model.training
    assert not model.gain.requires_grad
    assert not teacher(IMAGES.requires_grad_()).requires_grad
    assert copy.deepcopy({"held": teacher})["held"] is teacher


def test_teacher_moves_with_its_normalisation():
    teacher = Teacher(Mean(), "", HALF, OTHER).to(torch.device("cpu"), torch.float64)
    assert teacher(normalised(*HALF).double()).dtype == torch.float64


def test_teacher_from_a_run_is_its_best_checkpoint(teacher_run):
    teacher = load_teacher(None, str(teacher_run), num_classes=10, img_size=32, normalisation=HALF)
    path = teacher_run / "checkpoints" / "best.ckpt"
    trained = torch.load(path, weights_only=True)
    best = Classifier.load_from_checkpoint(path).eval()
    assert teacher.num_outputs == 10
    images = normalised(*HALF)
    data = trained["datamodule_hyper_parameters"]
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), best(normalised(data["mean"], data["std"])), rtol=1e-4, atol=1e-5)
    accuracy = f"{100 * trained['metrics']['val/acc1']:.2f} % on fake when saved"
    assert "vit_tiny_patch16_224, softmax" in teacher.name
    assert accuracy in teacher.name


def test_teacher_from_timm_with_a_file_of_weights(tmp_path):
    model = timm.create_model("test_resnet", num_classes=10).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    wanted = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    teacher = load_teacher("test_resnet", str(tmp_path / "weights.pt"), 10, 32, wanted)
    with torch.no_grad():
        assert torch.equal(teacher(IMAGES), model(IMAGES))
    other = load_teacher("test_resnet", str(tmp_path / "weights.pt"), 10, 32, OTHER)
    with torch.no_grad():
        torch.testing.assert_close(other(normalised(*OTHER)), model(normalised(*wanted)), rtol=1e-3, atol=1e-4)


def test_teacher_from_timm_without_a_file_has_timms_weights_and_classes(monkeypatch):
    asked = []
    create_model = timm.create_model

    def without_network(*args, pretrained=False, **kwargs):
        asked.append(pretrained)
        return create_model(*args, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", without_network)
    teacher = load_teacher("test_resnet", None, 10, 32, HALF)
    assert set(asked) == {True}
    assert teacher.num_outputs == 1000


@pytest.mark.parametrize("name", [None, "test_resnet"])
def test_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=rf"distillation\.teacher\.path={tmp_path}/moved"):
        load_teacher(name, str(tmp_path / "moved"), 10, 32, HALF)


def test_directory_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"distillation\.teacher\.path=.* has no checkpoint"):
        load_teacher(None, str(tmp_path), 10, 32, HALF)


def test_file_of_other_weights_is_rejected(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=7).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"no teacher test_vit from .*weights\.pt: .*path=FILE"):
        load_teacher("test_vit", str(tmp_path / "weights.pt"), 10, 160, HALF)
    (tmp_path / "notes.txt").write_text("no weights\n")
    with pytest.raises(ValueError, match=r"no teacher test_vit from .*notes\.txt: "):
        load_teacher("test_vit", str(tmp_path / "notes.txt"), 10, 160, HALF)


def test_weights_without_a_name_are_rejected(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=7).state_dict(), tmp_path / "weights.pt")
    message = (
        r"no teacher from .*: .* is not an fvit checkpoint but a state dict of .*\)\. .* distillation\.teacher\.name=…$"
    )
    with pytest.raises(ValueError, match=message):
        load_teacher(None, str(tmp_path / "weights.pt"), 10, 160, HALF)


def test_unknown_model_is_rejected():
    with pytest.raises(ValueError, match="unknown model 'test_vitt', did you mean test_vit"):
        load_teacher("test_vitt", None, 10, 32, HALF)


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("We have no connection to the Hub.\nMore.")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(ValueError, match=r"no teacher test_vit: .*We have no connection to the Hub"):
        load_teacher("test_vit", None, 10, 32, HALF)


def test_another_image_size_is_rejected(teacher_run):
    with pytest.raises(
        ValueError, match=r"trained on images of 32 px, and the student takes 64 px; set data\.img_size=32"
    ):
        load_teacher(None, str(teacher_run), 10, 64, HALF)
