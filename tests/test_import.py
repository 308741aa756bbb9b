"""What importing loads, and when timm comes to know our names. Each in a fresh interpreter, with warnings as errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fvit

HEAVY = {"hydra", "lightning", "numpy", "omegaconf", "pydantic", "sklearn", "timm", "torch", "torchvision", "wandb"}

USES_TIMM = """
import torch
assert len(timm.list_models("fvit_*")) == 12, timm.list_models("fvit_*")
assert timm.is_model("fvit_tiny_patch16_224")
options = dict(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3)
model = timm.create_model("fvit_tiny_patch16_224", num_classes=5, **options)
assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
assert type(model.blocks[0].attn).__name__ == "AdditiveAttention"
features = timm.create_model("fvit_tiny_patch16_224", features_only=True, **options)
assert [f.shape for f in features(torch.zeros(1, 3, 32, 32))] == [(1, 24, 4, 4)] * 3
"""


def run(code, *flags, **environment):
    """Standard output of `code` in an interpreter of its own."""
    command = [sys.executable, "-W", "error", *flags, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(statement):
    modules = run(f"import sys\n{statement}\nprint(*sys.modules)").split()
    return {module.split(".")[0] for module in modules}


def test_fvit_alone_loads_nothing_heavy():
    loaded = loaded_by("import fvit")
    assert "fvit" in loaded
    assert not loaded & HEAVY


def test_attention_loads_torch_and_nothing_of_the_framework():
    loaded = loaded_by("import fvit.attention")
    assert "torch" in loaded
    assert not loaded & (HEAVY - {"torch", "numpy"})


@pytest.mark.parametrize(
    "imports",
    [
        pytest.param("import fvit\nimport timm", id="fvit first", marks=pytest.mark.slow),
        pytest.param("import timm\nimport fvit", id="timm first"),
        pytest.param("from fvit.models import FViT\nimport timm", id="fvit.models first", marks=pytest.mark.slow),
    ],
)
def test_timm_knows_our_names_in_every_order(imports):
    run(imports + USES_TIMM)


@pytest.mark.slow
def test_a_lookup_leaves_the_import_hook_and_an_import_removes_it():
    """Libraries look whether timm is there without importing it; and nothing of the hook may cling to timm later."""
    run(
        "import importlib.util, inspect, sys\n"
        "import fvit\n"
        "def hooks():\n"
        "    return [finder for finder in sys.meta_path if type(finder).__module__ == 'fvit']\n"
        "assert importlib.util.find_spec('timm')\n"
        "assert len(hooks()) == 1\n"
        "import timm\n"
        "assert not hooks()\n"
        "assert timm.__spec__.loader is timm.__loader__\n"
        "assert type(timm.__loader__).__module__ != 'fvit'\n"
        "assert inspect.getsource(timm)\n"
        "assert len(timm.list_models('fvit_*')) == 12\n"
    )


def test_fvit_imports_where_nothing_is_installed():
    code = "import fvit\ntry:\n    import timm\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    assert run(code, "-S", PYTHONPATH=str(Path(fvit.__file__).parents[1])) == "timm\n"


def test_fvit_has_a_version():
    assert run("import fvit; print(fvit.__version__)").strip().split(".")[0].isdigit()
