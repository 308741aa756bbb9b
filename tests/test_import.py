"""What imports load, and when timm knows fvit's names. Each in a fresh interpreter, with warnings as errors."""

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
options = dict(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3)
model = timm.create_model("fvit_tiny_patch16_224", num_classes=5, **options)
assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
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


@pytest.mark.slow
def test_attention_loads_only_torch():
    loaded = loaded_by("import fvit.attention")
    assert "torch" in loaded
    assert not loaded & (HEAVY - {"torch", "numpy"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        pytest.param("import timm\nimport fvit", id="fvit after timm"),
        pytest.param("import fvit.models\nimport timm", id="fvit.models before timm"),
    ],
)
def test_timm_knows_our_names(imports):
    run(imports + USES_TIMM)


def test_fvit_imports_where_nothing_is_installed():
    code = "import fvit\ntry:\n    import timm\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    assert run(code, "-S", PYTHONPATH=str(Path(fvit.__file__).parents[1])) == "timm\n"


def test_fvit_has_a_version():
    assert fvit.__version__.split(".")[0].isdigit()
