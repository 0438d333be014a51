"""The benchmarks of make_tasks.py, one a file; files.py is what they share.
protocols.py is how published harnesses ask for programs, for eval.py.

To add a benchmark, write one file with `Config` (the flags), `make(config)`, which returns
{split: [task, ...]}, and `main(config)`, as gsm8k.py has them; then name it in make_tasks.SOURCES.
"""
