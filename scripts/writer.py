"""A writer whose every state is known: the calls depend on a seed alone, each that returned is noted in a log.

    writer.py DIR LOG SEED      runs the calls in DIR until one fails

A line of LOG: number of the call, monotonic time in ns at its return, 1 if it was an fsync.
"""

import os
import random
import sys
import time


def writer(dir, log, seed):
    """Calls in an order that depends on the seed alone; each is noted after it returned."""
    r = random.Random(seed)
    log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    for call in calls(r):
        try:
            apply(dir, call)
        except OSError as problem:
            os.write(log, f"error {number} {problem}\n".encode())
            return
        os.write(log, f"{number} {time.monotonic_ns()} {int(call[0] == 'fsync')}\n".encode())
        number += 1


def calls(r):
    """An endless sequence of calls that are valid one after the other."""
    live, number = [], 0
    while True:
        kind = r.random()
        if kind < 0.55 or len(live) < 5:
            name = f"f{number}"
            number += 1
            live.append(name)
            yield ("create", name, r.randbytes(r.choice([10, 1000, 5000, 200_000])))
        elif kind < 0.75:
            old = live.pop(r.randrange(len(live)))
            new = f"f{number}"
            number += 1
            live.append(new)
            yield ("rename", old, new)
        elif kind < 0.9:
            yield ("unlink", live.pop(r.randrange(len(live))))
        elif kind < 0.93:
            yield ("fsync", r.choice(live))
        else:
            yield ("append", r.choice(live), r.randbytes(r.choice([5, 3000])))


def apply(dir, call):
    kind, name = call[0], call[1]
    path = os.path.join(dir, name)
    if kind == "create":
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(fd, call[2])
        finally:
            os.close(fd)
    elif kind == "rename":
        os.rename(path, os.path.join(dir, call[2]))
    elif kind == "unlink":
        os.unlink(path)
    elif kind == "append":
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, call[2])
        finally:
            os.close(fd)
    else:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def replay(state, call):
    kind, name = call[0], call[1]
    if kind == "create":
        state[name] = call[2]
    elif kind == "rename":
        state[call[2]] = state.pop(name)
    elif kind == "unlink":
        del state[name]
    elif kind == "append":
        state[name] = state[name] + call[2]


def halfway(before, call, tree):
    """Whether the tree is the state inside of a call: a file is created, then written."""
    return (call[0] == "create" and len(tree) == len(before) + 1 and tree.get(call[1]) == b""
            and {**before, call[1]: b""} == tree)


def found_prefix(seed, tree, upto):
    """The number of calls whose result the tree is, or None."""
    state, best = {}, None
    r = random.Random(seed)
    if state == tree:
        best = 0
    for number, call in enumerate(calls(r), 1):
        if halfway(state, call, tree):
            best = number - 1
        replay(state, call)
        if state == tree:
            best = number
        if number > upto + 2:
            return best


def nearest(seed, tree, upto):
    """What a tree that is no prefix differs in from the state that is nearest to it."""
    state, best = {}, None
    for number, call in enumerate(calls(random.Random(seed)), 1):
        replay(state, call)
        if abs(len(state) - len(tree)) < 3:
            odd = {n for n in state.keys() | tree.keys() if state.get(n) != tree.get(n)}
            if best is None or len(odd) < len(best[1]):
                sizes = {n: [len(s[n]) if n in s else None for s in (state, tree)] for n in sorted(odd)[:5]}
                best = number, odd, sizes
        if number > upto + 2:
            return f"nearest to call {best[0]}; sizes there and here: {best[2]}" if best else "like no state at all"


def acknowledged(log):
    """The whole lines of a log: (number, time, whether an fsync)."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [tuple(map(int, l.split())) for l in lines if l.endswith("\n") and not l.startswith("error")]


if __name__ == "__main__":
    writer(sys.argv[1], sys.argv[2], int(sys.argv[3]))
