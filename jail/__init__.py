"""The processes behind sandbox.py, one file a role or concern; all need the standard library alone.

    process                 files, and what each imports (every file may import wire.py)
    the caller's            sandbox.py ─► worker.py, tasks.py      starts the other two
                            sandbox.py ─► rows.py, packages.py, progress.py
    judge                   judge.py ─► styles.py ─► session.py, equality.py ─► proxies.py
                                                                   tests run here, programs never do
    zygote, candidates      zygote.py ─► candidate.py
                            zygote.py ─► seal.py ─► syscalls.py    programs run here, tests never do

The zygote forks a candidate for each program, so a program can reach whatever the zygote holds.
Neither the judge nor the zygote has a folder of the project on sys.path. worker.py sends each the
compiled files of its role through a pipe, and no name of the project is left in sys.modules.
"""
