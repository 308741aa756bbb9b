from fvit.run.going_on import settle
from fvit.run.tracking import wandb_logger


def test_a_run_keeps_its_id_until_it_begins_afresh(tmp_path, compose_config):
    folder = tmp_path / "run"

    def new():
        return wandb_logger(tmp_path / "logs", "fvit", "test", folder, offline=True)

    first = new()
    assert first.version
    assert first._wandb_init["resume"] == "allow"
    assert new().version == first.version == (folder / "wandb_id").read_text()
    settle(compose_config())
    assert new().version != first.version
