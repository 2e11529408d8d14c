#!/usr/bin/env python3
"""Writes down what Apache Flink makes of random streams of out-of-order rows: `tests/flink/record.py --streams 40 --out tests/flink/windows.json`.

`tests/flink.rs` holds the program to such a file: to the one beside this script in every build, to a fresh one of 200 streams nightly.
Flink is installed into tests/.servers/flink, from PyPI (`apache-flink-libraries`, which is Flink's own jars); it needs a JDK of 11 or later.

Times are milliseconds. Values are multiples of a quarter below 2^20, so that sums are exact in any order. Some rows lie between the windows
of a slide larger than the size; those are in no window, and whether they are late is left out: Flink calls them late, here they are not.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import venv

FLINK = "2.3.0"
HERE = pathlib.Path(__file__).resolve().parent
HOME = HERE.parent / ".servers" / "flink"
OPEN = ["--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.lang=ALL-UNNAMED"]


def jars():
    """Flink's jars, installed if they are not there."""
    stamp = HOME / "version"
    if not stamp.exists() or stamp.read_text() != FLINK:
        venv.create(HOME, with_pip=True, clear=True)
        pip = [HOME / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, f"apache-flink-libraries=={FLINK}"], check=True)
        stamp.write_text(FLINK)
    [lib] = HOME.glob("lib/python*/site-packages/pyflink/lib")
    return f"{lib}/*"


def spec(pick):
    """One specification of windows, lateness and watermark."""
    kind = pick.choice(["tumbling", "sliding", "sliding", "session"])
    size = pick.choice([100, 250, 700, 1000, 1500, 3600])
    found = {"type": kind, "delay": pick.choice([0, 50, 200, 500]), "lateness": pick.choice([0, 0, 1, 300, 1000, 5000])}
    if kind == "session":
        return found | {"gap": pick.choice([30, 80, 150, 400])}
    found["size"] = size
    if kind == "sliding":
        found["slide"] = pick.choice([max(size // part, 1) for part in (1, 2, 3, 5, 10)] + [size * 2 // 3, size + 70])
    found["offset"] = pick.choice([0, 0, 17, -(min(size, found.get("slide", size)) // 3)])
    return found


def stream(pick, rows):
    """A specification and rows for it."""
    disorder = pick.choice([0, 50, 200, 600])
    pace = pick.choice([5, 20, 60])
    parts = ["A3", "B1", "C", "D-17"][: pick.randint(1, 4)]
    now = pick.choice([0, -40 * pace, 1_700_000_000_000])
    made = []
    for _ in range(rows):
        now += pick.randint(0, 2 * pace)
        if pick.random() < 0.02:
            now += pick.randint(500, 5000)
        late = pick.randint(0, disorder)
        if pick.random() < 0.04:
            late += pick.randint(0, 4000)
        made.append([pick.choice(parts), now - late, pick.randint(-400, 4000) / 4])
    return {"spec": spec(pick), "rows": made}


def between(found, time):
    """Whether no window is around `time`."""
    return found["type"] == "sliding" and (time - found["offset"]) % found["slide"] >= found["size"]


def asked(streams):
    """The streams as Oracle.java reads them."""
    for number, one in enumerate(streams):
        found = one["spec"]
        size, slide, offset = found.get("gap", found.get("size")), found.get("slide", 0), found.get("offset", 0)
        yield f"S {number} {found['type']} {size} {slide} {offset} {found['lateness']} {found['delay']}"
        yield from (f"R {part} {time} {value}" for part, time, value in one["rows"])


def answer(streams):
    """Adds what Flink says to each stream."""
    classpath = jars()
    classes = HOME / "classes"
    subprocess.run(["javac", "-nowarn", "-Xlint:none", "-cp", classpath, "-d", classes, HERE / "Oracle.java"], check=True)
    text = "".join(line + "\n" for line in asked(streams))
    java = ["java", "-Xmx1g", *OPEN, "-cp", f"{classes}:{classpath}", "Oracle"]
    ran = subprocess.run(java, input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        sys.exit(f"Flink ended with {ran.returncode}:\n{ran.stderr[-4000:]}")
    for one in streams:
        one["firings"], one["late"] = [], []
    for line in ran.stdout.splitlines():
        kind, number, *rest = line.split(" ")
        one = streams[int(number)]
        if kind == "F":
            part, start, end, count, *values = rest
            one["firings"].append([part, int(start), int(end), int(count), *map(float, values)])
        elif not between(one["spec"], one["rows"][int(rest[0])][1]):
            one["late"].append(int(rest[0]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rows", type=int, default=150, help="of each stream")
    parser.add_argument("--seed", type=int, default=None, help="the clock's unless given")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    pick = random.Random(seed)
    streams = [stream(pick, arguments.rows) for _ in range(arguments.streams)]
    answer(streams)
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in streams)
    head = f'"made_by":"tests/flink/record.py --streams {arguments.streams} --rows {arguments.rows} --seed {seed}","flink":"{FLINK}"'
    arguments.out.write_text(f'{{{head},"streams":[\n{lines}\n]}}\n')
    firings, late = (sum(len(one[what]) for one in streams) for what in ("firings", "late"))
    print(f"Apache Flink {FLINK}, seed {seed}: {len(streams)} streams, {firings} firings, {late} late rows in {arguments.out}")


main()
