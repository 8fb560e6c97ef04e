"""LaTeX that only lays a number out, as plain text; what computes stays."""

from __future__ import annotations

import pytest

from eztinker.dataset.grading.latex import plain_latex


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        (r"1{,}234", "1,234"),
        (r"1,\!234", "1,234"),
        (r"\$5", "$5"),
        (r"50\%", "50%"),
        (r"\frac{1}{2}", "1/2"),
        (r"\frac12", "1/2"),
        (r"\dfrac{-3}{4}", "-3/4"),
        (r"2\frac{1}{2}", "2 1/2"),
        (r"\text{cm}", " cm "),
        (r"5\text{ cm}^2", "5 cm "),
        (r"\mathrm{e}", "e"),
        (r"\textbf{72}", " 72 "),
        (r"3\times 4", "3× 4"),
        (r"8\div 2", "8÷ 2"),
        (r"90^\circ", "90 degrees "),
        (r"\;x^{12}", " x^12"),
        (r"5~apples\ left", "5 apples left"),
    ],
)
def test_commands_that_say_how_it_looks_go(latex: str, plain: str):
    assert plain_latex(latex) == plain


@pytest.mark.parametrize("latex", [r"\sqrt{16}", r"\pi r^2", r"\boxed{5}", r"\frac{x}{2}", "no commands, 5~6"])
def test_commands_that_compute_stay(latex: str):
    assert plain_latex(latex) == latex
