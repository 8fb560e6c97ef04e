"""Grading of free-text answers: find the last answer, then let math-verify or exact numbers compare it."""

from eztinker.dataset.grading.grade import Grade, evaluate_answer, evaluate_answers, extract_answer

__all__ = ["Grade", "evaluate_answer", "evaluate_answers", "extract_answer"]
