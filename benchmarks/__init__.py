"""Speed and memory compared with transformers and peft, in one run: same model, dtype, threads and inputs.

Run `python -m benchmarks`. Two programs never compute at once: each side answers in turn from a process of its own,
warm-up first, and medians are compared. On a shared machine only the ratios are meaningful.
"""
