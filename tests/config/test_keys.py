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
        ("epoch", "trainer.max_epochs"),
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("batchsize", "global_batch_size"),
        ("random_seed", "seed"),
        ("data_dir", "data.root"),
        ("checkpoint", "ckpt_path"),
        ("clip_grad", "trainer.gradient_clip_val"),
        ("optimizer.weigth_decay", "optimizer.weight_decay"),
        ("n_layers", "model.depth"),
    ],
)
def test_the_first_suggestion_is_the_whole_key(key, first):
    assert suggest(key, "train").startswith(f", did you mean {first}")
    assert first in known_keys("train")


def test_a_key_of_another_option_is_said_to_be_one():
    assert suggest("callbacks.ema.decay", "train") == (
        ": the chosen option of callbacks has no decay, unlike callbacks=[default,ema];"
    )
    assert (
        suggest("logger.wandb.entity", "train") == ": the chosen option of logger has no entity, unlike logger=wandb;"
    )
    assert suggest("data.image_size", "train") == ", did you mean data.img_size?"
    assert suggest("wandb", "train") == ", did you mean logger=wandb?"
    assert suggest("zzz", "train") == ""
