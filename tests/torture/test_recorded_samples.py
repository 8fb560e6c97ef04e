"""Recorded samples, when the server that drew them is killed before anybody has trained on them."""

from __future__ import annotations

import signal
from pathlib import Path

import tinker
from tinker import types

from tests.servers import API_KEY
from tests.torture.victims import Keeper

PROMPT = list(range(10, 18))


def test_what_was_sampled_before_a_kill_trains_after_it(tmp_path: Path, tiny_model_dir: Path):
    keeper = Keeper(tmp_path / "data", tiny_model_dir, {})
    with keeper.running(), tinker.ServiceClient(base_url=keeper.url, api_key=API_KEY) as service:
        trainer = service.create_lora_training_client(base_model="tiny", rank=4, seed=1).result()
        sampler = trainer.save_weights_and_get_sampling_client(record_stability_info=True).result()
        drawn = sampler.sample(
            types.ModelInput.from_ints(PROMPT), num_samples=2, sampling_params=types.SamplingParams(max_tokens=4)
        ).result()
        keeper.disturb(Keeper.kill_group)
        data = [datum_of(sequence) for sequence in drawn.sequences]
        result = trainer.forward_backward(data, "stable_reinforce").result()
        trainer.optim_step(types.AdamParams(learning_rate=1e-2)).result()
    # nothing was trained in between, so trainer and sampler still agree
    assert result.metrics["sampler_trainer_gap:max"] < 1e-4
    assert keeper.exit_codes == [-signal.SIGKILL, 0]


def datum_of(sequence: types.SampledSequence) -> types.Datum:
    assert sequence.sequence_id is not None
    tokens, name = list(sequence.tokens), sequence.sequence_id
    targets = [*PROMPT[1:], *tokens]
    plain = types.Datum(
        model_input=types.ModelInput.from_ints([*PROMPT, *tokens[:-1]]),
        loss_fn_inputs={
            "target_tokens": types.TensorData(data=targets, dtype="int64", shape=[len(targets)]),
            "advantages": types.TensorData(
                data=[0.0] * (len(PROMPT) - 1) + [1.0] * len(tokens), dtype="float32", shape=[len(targets)]
            ),
        },
    )
    return plain.with_provenance(
        model_input=[
            types.PromptProvenanceSpan(sequence_id=name, length=len(PROMPT)),
            types.SampledProvenanceSpan(sequence_id=name, length=len(tokens) - 1),
        ],
        loss_fn_inputs=[
            types.PromptProvenanceSpan(sequence_id=name, offset=1, length=len(PROMPT) - 1),
            types.SampledProvenanceSpan(sequence_id=name, length=len(tokens)),
        ],
    )
