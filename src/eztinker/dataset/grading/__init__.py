"""Grading of free-text answers: find the last answer, then compare it by math-verify or as exact numbers."""

from eztinker.dataset.grading.grade import Grade, evaluate_answer, evaluate_answers, extract_answer

__all__ = ["Grade", "evaluate_answer", "evaluate_answers", "extract_answer"]
