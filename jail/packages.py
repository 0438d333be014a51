"""Packages on request: where an installed package lies, for programs that may import it.

Runs in the caller's process. Imports the standard library alone. A package comes with those that it
requires. Everything else of the folder that holds them stays out of a program's reach.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys


def installed(name: str) -> bool:
    """Whether a program could import the package of this name, if asked for."""
    return name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None


def locate(names: list[str]) -> dict[str, str]:
    """Paths of the files and folders of the packages, by name; ImportError if one is missing.

    names: as programs import them ("sklearn") or as they are installed ("scikit-learn").
    """
    distributions = importlib.metadata.packages_distributions()
    todo = [(name, True) for name in names]
    done, found = set(), {}
    while todo:
        name, asked = todo.pop()
        for distribution_name in distributions.get(name, [name]):
            key = re.sub(r"[-_.]+", "-", distribution_name).lower()
            if key in done:
                continue
            done.add(key)
            try:
                distribution = importlib.metadata.distribution(distribution_name)
            except importlib.metadata.PackageNotFoundError:
                if asked:
                    raise ImportError(f"{name} is not installed") from None
                continue  # required on another system alone
            tops = {file.parts[0] for file in distribution.files or () if ".." not in file.parts}
            for top in tops - {"__pycache__", "bin"}:
                path = os.path.realpath(distribution.locate_file(top))
                if os.path.exists(path):
                    found[top] = path
            for requirement in distribution.requires or ():
                if "extra ==" not in requirement:
                    todo.append((re.match(r"[\w.-]+", requirement)[0], False))
    return found


def versions(names: list[str]) -> list[str]:
    """What the packages consist of, versions among it, as ["numpy", "numpy-2.4.6.dist-info"].

    [] where one is missing.
    """
    try:
        return sorted(locate(names)) if names else []
    except ImportError:
        return []


def missing_package(verdict: dict) -> str | None:
    """The package for want of which a program failed; None if it failed for another reason."""
    found = re.search(r"No module named '(\w+)", verdict.get("message", ""))
    if verdict["status"] != "error" or not found or found[1] in sys.stdlib_module_names:
        return None
    return found[1]
