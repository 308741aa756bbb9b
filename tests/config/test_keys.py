import pytest

from fvit.config.keys import known_keys, suggest


@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("batch_size", "global_batch_size"),
        ("epochs", "trainer.max_epochs"),
        ("max_epochs", "trainer.max_epochs"),
        ("trainer.epochs", "trainer.max_epochs"),
        ("lr", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("optimizer.lrr", "optimizer.lr"),
        ("data.rot", "data.root"),
        ("image_size", "data.img_size"),
        ("depth", "model.depth"),
        ("attention.num_agents", "model.attention.num_agents"),
        ("gpus", "trainer.devices"),
    ],
)
def test_the_first_suggestion_is_the_whole_key(key, first):
    assert suggest(key, "train").startswith(f", did you mean {first}")
    assert first in known_keys("train")


def test_a_key_of_another_option_is_said_to_be_one():
    assert suggest("callbacks.ema.decay", "train") == (
        ": the chosen option of callbacks has no decay, but another one may;"
    )
    assert suggest("zzz", "train") == ""
