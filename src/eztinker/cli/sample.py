from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eztinker.cli import completion
from eztinker.cli.output import JsonFlag, plain, print_json
from eztinker.cli.server_timeout import while_server_answers
from eztinker.cli.targets import find_target, load_tokenizer
from eztinker.rest_client import SCHEME, rest_client

if TYPE_CHECKING:
    from eztinker.rl.sampling import AdapterSampler


def sample(
    target: Annotated[
        str,
        typer.Argument(
            help="A base model, a training run, or the tinker:// path of a checkpoint.",
            metavar="MODEL|RUN|PATH",
            autocompletion=completion.anything_to_sample,
        ),
    ],
    prompt: Annotated[str, typer.Argument(help="What the model continues.")],
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", help="Completions.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Longest completion.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.7,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends a completion. Repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same completions.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print completions of a prompt, from a base model, from a run as it is now or from a checkpoint.

    The prompt goes to the model as it is; 'eztinker chat' puts it into the model's chat template.

    Example: eztinker sample RUN "The capital of France is"
    """
    from eztinker.rl.sampling import SamplingSpec

    spec = SamplingSpec(max_tokens=max_tokens, temperature=temperature, stop=tuple(stop or ()), seed=seed)
    completions = while_server_answers(lambda: _sampler_of(target).submit(prompt, num_samples, spec).result())
    if as_json:
        print_json([{"text": c.text, "tokens": c.tokens, "logprobs": c.logprobs} for c in completions])
    else:
        print("\n---\n".join(plain(completion.text) for completion in completions))


def _sampler_of(name: str) -> AdapterSampler:
    from eztinker.rl.connection import sdk_errors, service_client
    from eztinker.rl.runs import RUN_KEY, open_run
    from eztinker.rl.sampling import AdapterSampler

    with rest_client() as client:
        target = find_target(name, client)
        if target.run is not None and not name.startswith(SCHEME):
            return open_run(target.run).sampler()
        tokenizer = load_tokenizer(target.base_model, client)
    with sdk_errors():
        service = service_client()
        if target.path is None:
            sampling = service.create_sampling_client(base_model=target.base_model).result()
        elif target.run is None:
            sampling = service.create_sampling_client(model_path=target.path).result()
        else:
            of_run = {RUN_KEY: target.run}
            loaded = service.create_training_client_from_state(target.path, user_metadata=of_run).result()
            sampling = loaded.save_weights_and_get_sampling_client().result()
    return AdapterSampler(sampling, tokenizer)
