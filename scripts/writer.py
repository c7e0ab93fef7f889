"""A writer whose every state is known: the calls depend on a seed alone, each that returned is noted in a log.

    writer.py DIR LOG SEED      runs the calls in DIR until one fails
    writer.py --check           checks the search for a prefix itself

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


PAGE = 4096


def halfway(before, call, tree):
    """Whether the tree is the state inside of a call.

    A file is created, then written; and of one write(2) the kernel at times makes two requests, the first of which
    ends with a page (of 3,000 bytes appended to 200,000, in about one of 200 appends, seen in the record).
    """
    if call[0] not in ("create", "append"):
        return False
    old = before.get(call[1], b"")
    whole, found = old + call[2], tree.get(call[1])
    if found is None or len(tree) != len(before) + (call[0] == "create"):
        return False
    is_created = call[0] == "create" and found == b""
    is_split = len(old) < len(found) < len(whole) and len(found) % PAGE == 0 and whole.startswith(found)
    return (is_created or is_split) and {**before, call[1]: found} == tree


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


def check_oneself(seed=7, many=90):
    """Shows that the search for a prefix finds each state, also inside of a call, and nothing that is none."""
    state, refused = {}, 0
    for number, call in enumerate(calls(random.Random(seed)), 1):
        if number > many:
            break
        before = dict(state)
        replay(state, call)
        # A call that changes nothing (fsync) has the state of the one before it.
        assert found_prefix(seed, state, many) >= number
        if call[0] in ("create", "append"):
            name, old = call[1], before.get(call[1], b"")
            page = (len(old) // PAGE + 1) * PAGE
            if page < len(state[name]):
                assert found_prefix(seed, {**before, name: state[name][:page]}, many) == number - 1
                assert found_prefix(seed, {**before, name: state[name][:page - 1]}, many) is None
                assert found_prefix(seed, {**before, name: state[name][:page - 1] + b"?"}, many) is None
                refused += 1
        elif call[0] == "rename":
            # Without what came before it: no prefix.
            other = next(n for n in state if n != call[2])
            assert found_prefix(seed, {n: c for n, c in state.items() if n != other}, many) in (None, 0)
    assert refused > 3


def acknowledged(log):
    """The whole lines of a log: (number, time, whether an fsync)."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [tuple(map(int, l.split())) for l in lines if l.endswith("\n") and not l.startswith("error")]


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(check_oneself())
    writer(sys.argv[1], sys.argv[2], int(sys.argv[3]))
