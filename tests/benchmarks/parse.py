"""`python parse.py PROCESSES < names`: the bare libcst parse of files, without garbage collection.

A file is parsed as soon as it is read, and its tree is dropped. What libcst cannot read counts as read.
"""

import gc
import multiprocessing
import sys

import libcst


def parse(name: str) -> int:
    with open(name, "rb") as file:  # noqa: PTH123 - what is measured is libcst
        data = file.read()
    try:
        libcst.parse_module(data)
    except Exception:
        return 0
    return len(data)


def main() -> None:
    gc.disable()
    with open(sys.argv[2], encoding="utf-8") as file:  # noqa: PTH123
        names = file.read().splitlines()
    with multiprocessing.Pool(int(sys.argv[1])) as pool:
        print(sum(pool.imap_unordered(parse, names, chunksize=4)))


if __name__ == "__main__":
    main()
