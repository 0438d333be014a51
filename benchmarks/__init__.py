"""The benchmarks of make_tasks.py, one a file; files.py is what they share.

To add a benchmark, write one file with `Config` (the flags), `make(config)`, which returns
{split: [task, ...]}, and `main(config)`, as gsm8k.py has them; then name it in make_tasks.SOURCES.
"""
