import pytest

from fvit.config.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("logger.wandb.artifacts=worst", "logger.wandb.artifacts='worst': input should be 'off', 'best' or 'all'"),
        ("logger.wandb.media=-1", "logger.wandb.media=-1"),
        ("+logger.wandb.entiti=me", "logger.wandb has no option 'entiti', did you mean entity or"),
        ("logger.wandb.project=a/b", "project=a/b: W&B allows none of / \\ # ? % : in it; leave / out"),
        ("logger.wandb.project=''", "logger.wandb.project='': string should have at least 1 character"),
        ("+logger.wandb.mode=online", "logger.wandb has no option 'mode'"),
    ],
)
def test_a_mistake_is_found_before_wandb_is_imported(compose_config, override, message):
    with pytest.raises(ConfigError) as raised:
        compose_config("logger=wandb", override)
    assert message in str(raised.value)


def test_options_of_init_pass(compose_config):
    config = compose_config("logger=wandb", "+logger.wandb.entity=me", "logger.wandb.artifacts=all")
    assert config["logger"]["wandb"]["entity"] == "me"
