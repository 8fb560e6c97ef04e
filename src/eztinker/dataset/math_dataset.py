"""What every set of math word problems offers, so that training code takes any of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypedDict, overload

from eztinker.dataset.grading import Grade, evaluate_answer, evaluate_answers


class MathExample(TypedDict):
    question: str
    ground_truth: str
    """The worked solution, answer last."""
    extracted_answer: str
    """The answer alone, such as "72"."""


class MathDataset(Sequence[MathExample]):
    """Word problems with known answers, in a fixed order. Data sets differ in where `examples` come from."""

    few_shot_examples: ClassVar[tuple[MathExample, ...]] = ()
    """Worked examples in the style of the data set, none of them in it."""

    def __init__(self, examples: Sequence[MathExample], *, use_math_verify: bool = True) -> None:
        self._examples = examples
        self._use_math_verify = use_math_verify

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> MathExample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[MathExample]: ...
    def __getitem__(self, index: int | slice) -> MathExample | Sequence[MathExample]:
        return self._examples[index]

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        """Question, prompt and answer of one problem; the answer is bare, such as "72"."""
        example = self[index]
        return example["question"], self.format_prompt(example["question"]), example["extracted_answer"]

    def format_prompt(self, question: str) -> str:
        """The prompt a completion continues. No space at its end: models draw the space with the first word."""
        return f"Question: {question}\nAnswer:"

    def format_few_shot_prompt(self, question: str) -> str:
        """The prompt behind worked examples: shows what the model can do once it knows the form of an answer."""
        worked = [f"{self.format_prompt(each['question'])} {each['ground_truth']}" for each in self.few_shot_examples]
        return "\n\n".join([*worked, self.format_prompt(question)])

    def evaluate_answer(self, model_response: str, ground_truth_str: str, question: str = "") -> Grade:
        """Grade one response; see `eztinker.dataset.grading.evaluate_answer`."""
        return evaluate_answer(model_response, ground_truth_str, question, use_math_verify=self._use_math_verify)

    def evaluate_answers(
        self, model_responses: Sequence[str], ground_truths: Sequence[str], questions: Sequence[str] | None = None
    ) -> list[Grade]:
        """Grade many responses at once, which is faster; see `eztinker.dataset.grading.evaluate_answers`."""
        return evaluate_answers(model_responses, ground_truths, questions, use_math_verify=self._use_math_verify)
