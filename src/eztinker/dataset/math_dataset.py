"""The interface of data sets of math word problems, so that training code takes any of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypedDict, overload

from eztinker.dataset.grading import Grade, evaluate_answer, evaluate_answers


class MathExample(TypedDict):
    question: str
    ground_truth: str
    """Worked solution, which ends with the answer."""
    extracted_answer: str
    """Answer alone, such as "72"."""


class MathDataset(Sequence[MathExample]):
    """Word problems with known answers, in a fixed order. Data sets differ in where `examples` come from."""

    few_shot_examples: ClassVar[tuple[MathExample, ...]] = ()
    """Worked examples in the style of the data set, but not in it."""

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
        """The prompt for a question. It does not end with a space, which models draw with the first word."""
        return f"Question: {question}\nAnswer:"

    def format_few_shot_prompt(self, question: str) -> str:
        """The prompt after worked examples, which measures a model that knows the form of an answer."""
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
