from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eztinker.cli.output import JsonFlag, plain, print_json

if TYPE_CHECKING:
    from eztinker.rl.sampling import Sampler


def sample(
    target: Annotated[str, typer.Argument(help="A training run, a tinker:// path, or a base model.")],
    prompt: Annotated[str, typer.Argument(help="What the model continues.")],
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", help="Completions.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Longest completion.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.7,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends a completion. Repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same completions.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print completions of a prompt.

    Example: eztinker sample HuggingFaceTB/SmolLM2-135M-Instruct "The capital of France is"
    """
    from eztinker.rl.sampling import SamplingSpec

    spec = SamplingSpec(max_tokens=max_tokens, temperature=temperature, stop=tuple(stop or ()), seed=seed)
    completions = _sampler_of(target).submit(prompt, num_samples, spec).result()
    if as_json:
        print_json([{"text": c.text, "tokens": c.tokens, "logprobs": c.logprobs} for c in completions])
    else:
        print("\n---\n".join(plain(completion.text) for completion in completions))


def _sampler_of(target: str) -> Sampler:
    from eztinker.rl.connection import sdk_errors, service_client
    from eztinker.rl.runs import RUN_PREFIX, open_run
    from eztinker.rl.sampling import Sampler

    if target.startswith(RUN_PREFIX):
        return open_run(target).sampler()
    is_checkpoint = target.startswith("tinker://")
    with sdk_errors():
        client = service_client().create_sampling_client(
            model_path=target if is_checkpoint else None, base_model=None if is_checkpoint else target
        )
        return Sampler(client, client.get_tokenizer())
