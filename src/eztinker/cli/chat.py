from __future__ import annotations

import sys
from contextlib import closing, suppress
from typing import Annotated

import typer

from eztinker.cli import completion
from eztinker.cli.conversation import Conversation
from eztinker.cli.output import fail, plain
from eztinker.cli.targets import find_target, load_tokenizer
from eztinker.errors import EZTinkerError, InvalidInput
from eztinker.rest_client import rest_client

_RESET = "/reset"


def chat(
    target: Annotated[
        str,
        typer.Argument(
            help="A base model, a training run, or the tinker:// path of a checkpoint.",
            metavar="MODEL|RUN|PATH",
            autocompletion=completion.anything_to_sample,
        ),
    ],
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most likely token.")] = 0.7,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answers.")] = None,
) -> None:
    """Talk to a model through its chat template; answers appear as they are drawn.

    /reset forgets the conversation, Ctrl-C stops an answer, Ctrl-D leaves. Lines from a pipe are turns, too.

    Example: eztinker chat HuggingFaceTB/SmolLM2-135M-Instruct
    """
    with rest_client() as client:
        found = find_target(target, client)
        models = {model["model_name"]: model for model in client.models()}
        served = models.get(found.base_model) or models[found.base_model.partition(":")[0]]
        conversation = Conversation(
            client,
            found,
            load_tokenizer(found.base_model, client),
            context_length=served["max_context_length"],
            system=system,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
        )
        with closing(conversation):
            _talk(conversation, target)


def _talk(conversation: Conversation, target: str) -> None:
    is_typed = sys.stdin.isatty()
    if is_typed:
        print(f"Talking to {target}. {_RESET} forgets the conversation, Ctrl-C stops an answer, Ctrl-D leaves.")
        with suppress(ImportError):
            import readline  # noqa: F401  lines can be edited and called back
    while True:
        try:
            turn = input("> " if is_typed else "").strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            if not is_typed:
                raise
            print("\nCtrl-D leaves")
            continue
        if turn == _RESET:
            conversation.reset()
            if is_typed:
                print("Forgotten")
        elif turn:
            _answer(conversation, turn)
    if is_typed:
        print()


def _answer(conversation: Conversation, turn: str) -> None:
    """Print an answer while it is drawn; Ctrl-C stops it and keeps the part drawn so far in the conversation."""
    with closing(conversation.answer(turn)) as pieces:
        try:
            for piece in pieces:
                sys.stdout.write(plain(piece))
                sys.stdout.flush()
            print()
        except KeyboardInterrupt:
            print(" (stopped)")
        except InvalidInput as error:
            fail(error.message)
        except EZTinkerError:
            print()
            raise
