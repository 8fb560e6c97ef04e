"""What another key may see of a checkpoint: nothing, what is published, what a token opens, and copies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import tinker
from tinker import types

from tests.e2e.rest.helpers import PROMPT, names
from tests.servers import API_KEY, RunningServer, key_of
from tests.wire import outcome


@pytest.mark.conforms(72, 74)
def test_a_checkpoint_is_private_until_it_is_published(
    server: RunningServer, rest: tinker.RestClient, other: tinker.RestClient, trainer: tinker.TrainingClient
):
    path = trainer.save_state("shared").result().path
    hidden = trainer.save_state("hidden").result().path
    for foreign in (path, "tinker://nobody:train:0/weights/shared"):
        with pytest.raises(tinker.NotFoundError, match="there is no training run"):
            other.get_weights_info_by_tinker_path(foreign).result()
    for _ in range(2):
        rest.publish_checkpoint_from_tinker_path(path).result()
    assert [row.public for row in rest.list_checkpoints(trainer.model_id).result().checkpoints] == [False, True]
    assert other.get_weights_info_by_tinker_path(path).result().base_model == "tiny"
    assert names(other, trainer) == ["weights/shared"]
    assert other.get_training_run(trainer.model_id, access_scope="accessible").result().model_owner == "local"
    for refused in (
        other.get_weights_info_by_tinker_path(hidden),
        other.get_training_run(trainer.model_id),
        other.delete_checkpoint_from_tinker_path(path),
        other.unpublish_checkpoint_from_tinker_path(path),
        other.set_checkpoint_ttl_from_tinker_path(path, None),
    ):
        with pytest.raises(tinker.NotFoundError):
            refused.result()
    theirs = tinker.ServiceClient(base_url=server.url, api_key=key_of(server, "other"))
    assert theirs.create_training_client_from_state(path).result().get_info().model_data.model_name == "tiny"
    for _ in range(2):
        rest.unpublish_checkpoint_from_tinker_path(path).result()
    with pytest.raises(tinker.RequestFailedError, match="there is no training run"):
        theirs.create_training_client_from_state(path).result()
    theirs.close("success").result()


def test_the_runs_of_others_are_listed_once_they_have_published(
    rest: tinker.RestClient, other: tinker.RestClient, service: tinker.ServiceClient
):
    trainer = service.create_lora_training_client(base_model="tiny", user_metadata={"mine": "yes"}).result()

    def seen(access_scope: str) -> list[types.TrainingRun]:
        runs = other.list_training_runs(limit=1000, access_scope=access_scope).result()  # pyright: ignore
        assert runs.cursor.total_count == len(runs.training_runs)
        return [run for run in runs.training_runs if run.training_run_id == trainer.model_id]

    path = trainer.save_state("w").result().path
    assert seen("accessible") == []
    rest.publish_checkpoint_from_tinker_path(path).result()
    assert seen("owned") == []
    (run,) = seen("accessible")
    assert run.last_checkpoint is not None
    assert (run.last_checkpoint.tinker_path, run.user_metadata) == (path, None)


@pytest.mark.filterwarnings("ignore:DEPRECATED. TrainingClient.load_state:FutureWarning")
def test_a_weights_access_token_opens_what_its_owner_can_read(
    server: RunningServer, other: tinker.RestClient, trainer: tinker.TrainingClient
):
    path = trainer.save_state("lent").result().path
    with pytest.raises(tinker.NotFoundError):
        other.copy_weights(path, "archive").result()
    assert other.copy_weights(path, "archive", weights_access_token=API_KEY).result().endswith("/weights/lent")
    with tinker.ServiceClient(base_url=server.url, api_key=key_of(server, "other")) as theirs:
        loaded = theirs.create_training_client_from_state(path, weights_access_token=API_KEY).result()
        loaded.load_state(path, weights_access_token=API_KEY).result()
        with pytest.raises(tinker.RequestFailedError, match="weights_access_token must be a key of this server"):
            loaded.load_state(path, weights_access_token="tml-unknown").result()


@pytest.mark.conforms(77)
def test_a_copy_outlives_its_original_and_cannot_be_trained(
    rest: tinker.RestClient, service: tinker.ServiceClient, trainer: tinker.TrainingClient
):
    path = trainer.save_weights_for_sampler("best").result().path
    copy = rest.copy_weights(path, "archive", ttl_seconds=3600).result()
    rest.delete_checkpoint_from_tinker_path(path).result()
    run_id = types.ParsedCheckpointTinkerPath.from_tinker_path(copy).training_run_id
    assert copy == f"tinker://{run_id}/sampler_weights/best"
    (row,) = rest.list_checkpoints(run_id).result().checkpoints
    assert (row.checkpoint_type, row.expires_at is None) == ("sampler", False)
    archived = rest.list_training_runs(limit=1000, project_id="archive").result().training_runs
    assert run_id in [run.training_run_id for run in archived]
    assert rest.get_weights_info_by_tinker_path(copy).result().lora_rank == 4
    sampler = service.create_sampling_client(model_path=copy).result()
    assert len(sampler.sample(PROMPT, 1, types.SamplingParams(max_tokens=1)).result().sequences) == 1


@pytest.mark.conforms(77)
def test_a_copy_is_made_once_per_idempotency_key(server: RunningServer, trainer: tinker.TrainingClient):
    body = {"source_path": trainer.save_state("w").result().path, "destination_project_id": "p"}
    root = server.app.state.service.config.data_dir / "checkpoints"
    before = set(root.iterdir())
    with server.client() as http:
        first, again, another = (
            http.post("/copy_weights", json=body, headers={"x-idempotency-key": key}).json()["tinker_path"]
            for key in ("k1", "k1", "k2")
        )
        assert first == again != another
        run_id = types.ParsedCheckpointTinkerPath.from_tinker_path(first).training_run_id
        refused = http.post("/optim_step", json={"model_id": run_id, "seq_id": 1, "adam_params": {}})
        assert refused.status_code == 410  # its session is over
        session_id = trainer.model_id.partition(":")[0]
        slot = {"source_path": body["source_path"], "session_id": session_id, "model_seq_id": 7}
        paths = {http.post("/copy_weights", json=slot).json()["tinker_path"] for _ in range(2)}
        assert paths == {f"tinker://{session_id}:train:7/weights/w"}
        step = http.post("/optim_step", json={"model_id": f"{session_id}:train:7", "seq_id": 1, "adam_params": {}})
        assert "holds a copy and is not trained" in outcome(http, step.json()["request_id"]).json()["error"]
        taken = http.post("/copy_weights", json=slot | {"model_seq_id": 0})
        assert (taken.status_code, taken.json()["error"]["code"]) == (400, "already_exists")
        create = {"session_id": session_id, "model_seq_id": 7, "base_model": "tiny"}
        assert http.post("/create_model", json=create).json()["error"]["code"] == "already_exists"
        both = http.post("/copy_weights", json=slot | body)
        assert "takes destination_project_id, or session_id and model_seq_id" in both.json()["detail"]
    assert len(set(root.iterdir()) - before) == 3  # one for each of the two keys and for the slot


def test_repeats_at_the_same_time_make_one_copy(server: RunningServer, trainer: tinker.TrainingClient):
    body = {"source_path": trainer.save_state("w").result().path, "destination_project_id": "p"}
    root = server.app.state.service.config.data_dir / "checkpoints"
    before = set(root.iterdir())
    with server.client(**{"x-idempotency-key": "at once"}) as http, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.post("/copy_weights", json=body).json(), range(8)))
    assert len({answer["tinker_path"] for answer in answers}) == 1
    assert len(set(root.iterdir()) - before) == 1
