import pytest

from fvit.config.errors import ConfigError
from fvit.config.schemas.report import collect_folders


@pytest.mark.parametrize(
    ("arguments", "collected"),
    [
        ([], []),
        (["logs/train"], ["runs=['logs/train']"]),
        (["a b", "it's", "out=x"], ["out=x", "runs=['a b','it\\'s']"]),
        (["a", "--cfg", "job", "--resolve"], ["--cfg", "job", "--resolve", "runs=['a']"]),
        (["--help"], ["--help"]),
        (["runs=[a]"], ["runs=[a]"]),
    ],
)
def test_folders_are_collected(arguments, collected):
    assert collect_folders(arguments) == collected


def test_a_multirun_is_refused():
    with pytest.raises(ConfigError, match="leave -m out"):
        collect_folders(["-m", "logs"])
