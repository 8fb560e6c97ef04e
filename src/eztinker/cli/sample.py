from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eztinker.cli.output import JsonFlag, plain, print_json
from eztinker.rest_client import SCHEME, rest_client, split_path

if TYPE_CHECKING:
    from eztinker.rl.sampling import Sampler


def sample(
    target: Annotated[str, typer.Argument(help="A training run, or the tinker:// path of a checkpoint.")],
    prompt: Annotated[str, typer.Argument(help="What the model continues.")],
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", help="Completions.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Longest completion.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.7,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends a completion. Repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same completions.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print completions of a prompt, from a run as it is now or from a checkpoint.

    A run that has not been trained yet answers as its base model does.

    Example: eztinker sample RUN "The capital of France is"
    """
    from eztinker.rl.sampling import SamplingSpec

    spec = SamplingSpec(max_tokens=max_tokens, temperature=temperature, stop=tuple(stop or ()), seed=seed)
    completions = _sampler_of(target).submit(prompt, num_samples, spec).result()
    if as_json:
        print_json([{"text": c.text, "tokens": c.tokens, "logprobs": c.logprobs} for c in completions])
    else:
        print("\n---\n".join(plain(completion.text) for completion in completions))


def _sampler_of(target: str) -> Sampler:
    from eztinker.rl.runs import open_run

    return _sampler_of_checkpoint(target) if target.startswith(SCHEME) else open_run(target).sampler()


def _sampler_of_checkpoint(path: str) -> Sampler:
    from transformers import AutoTokenizer

    from eztinker.rl.connection import sdk_errors, service_client
    from eztinker.rl.sampling import Sampler

    with rest_client() as client:
        directory = client.tokenizer_directory(split_path(path)[0])
    with sdk_errors():
        sampling_client = service_client().create_sampling_client(model_path=path).result()
    return Sampler(sampling_client, AutoTokenizer.from_pretrained(directory))
