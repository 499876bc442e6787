#!/usr/bin/env python3
"""Decode speed against the memory for experts: measures points into a JSON file, and draws docs/expert-memory.svg from it.

  expert_memory_curve.py measure --model DIR --out FILE --tokens even|zipf [--sizes 1GB,2GB | --mapped] [--limit 6.7GB]
  expert_memory_curve.py draw FILE docs/expert-memory.svg
  expert_memory_curve.py policies [DUMP...]

Every point is one run of `fathom generate`: a prompt that warms the store, then token after token, each a prompt that is
one token longer than the last one. The tokens are drawn evenly from the vocabulary, or as often as words in a text (the
r-th most frequent one with a probability of 1/r). --limit runs it in a memory-limited cgroup (v1, as root).

`policies` replays routers' choices (files of `fathom forward --dump router`, and two made-up skewed ones) against rules
of who has to make room, and prints the share of experts found in memory.
"""
import argparse
import json
import math
import os
import random
import re
import struct
import subprocess
import sys
import tempfile

CGROUP = "/sys/fs/cgroup/memory"


def size_bytes(text):
    number, unit = re.fullmatch(r"([0-9.]+)\s*([A-Za-z]*)", text).groups()
    factor = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}[unit.lower()]
    return int(float(number) * factor)


def draw_tokens(kind, vocabulary, count):
    rng = random.Random(11)
    if kind == "even":
        return [rng.randrange(vocabulary) for _ in range(count)]
    ranks = range(1, vocabulary + 1)
    return [rank * 7919 % vocabulary for rank in rng.choices(ranks, [1 / rank for rank in ranks], k=count)]


class LimitedMemory:
    """A cgroup of our own with a limit; the child enters it before it runs the program."""

    def __init__(self, limit):
        self.path = os.path.join(CGROUP, f"fathom-{os.getpid()}") if limit else None
        if self.path:
            os.mkdir(self.path)
            with open(os.path.join(self.path, "memory.limit_in_bytes"), "w") as file:
                file.write(str(limit))

    def enter(self):
        if self.path:
            with open(os.path.join(self.path, "cgroup.procs"), "w") as file:
                file.write(str(os.getpid()))

    def close(self):
        """The greatest use in bytes, or nothing."""
        if not self.path:
            return None
        with open(os.path.join(self.path, "memory.max_usage_in_bytes")) as file:
            peak = int(file.read())
        os.rmdir(self.path)
        return peak


def forget_pages(model):
    """Drops the model's files from the page cache, so that a run has to pay for its own."""
    for name in os.listdir(model):
        if name.endswith(".safetensors"):
            descriptor = os.open(os.path.join(model, name), os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def run_point(arguments, size):
    with open(os.path.join(arguments.model, "config.json")) as file:
        vocabulary = json.load(file)["vocab_size"]
    warm, count = arguments.warm, arguments.count
    tokens = draw_tokens(arguments.tokens, vocabulary, warm + count)
    command = [arguments.fathom, "generate", "--model", arguments.model, "--max-new-tokens", "1", "--ignore-eos", "--json"]
    if size:
        command += ["--experts-in-memory", str(size)]
    memory = LimitedMemory(arguments.limit)
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as prompts:
            for length in range(warm, warm + count + 1):
                prompts.write(json.dumps({"ids": tokens[:length]}) + "\n")
            prompts.flush()
            if arguments.limit:
                forget_pages(arguments.model)
            done = subprocess.run(command + ["--input-file", prompts.name], stdout=subprocess.PIPE, text=True,
                                  preexec_fn=memory.enter, check=True)
    finally:
        peak = memory.close()
    lines = [json.loads(line) for line in done.stdout.splitlines()][1:]
    assert all(line["timings"]["prefill_tokens"] == 1 for line in lines)
    seconds = [line["timings"]["prefill_ms"] / 1000 for line in lines]
    point = {"tokens": arguments.tokens, "experts_in_memory": size, "limit": arguments.limit, "peak": peak,
             "warm_tokens": warm, "measured_tokens": count, "tokens_per_second": count / sum(seconds),
             "seconds": seconds}
    if size:
        experts = {name: sum(line["experts"][name] for line in lines) for name in lines[0]["experts"]}
        point["experts"] = experts
        point["bytes_per_token"] = experts["bytes_read"] / count
    return point


def measure(arguments):
    points = []
    if os.path.exists(arguments.out):
        with open(arguments.out) as file:
            points = json.load(file)
    for size in [None] if arguments.mapped else [size_bytes(text) for text in arguments.sizes.split(",")]:
        point = run_point(arguments, size)
        points.append(point)
        with open(arguments.out, "w") as file:
            json.dump(points, file, indent=1)
        shown = {key: value for key, value in point.items() if key != "seconds"}
        print(json.dumps(shown), file=sys.stderr)


def polyline(points, color, dashes=""):
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dashes}/>{marks}'


def panel(out, left, title, unit, greatest_x, greatest_y, step_y, series, text):
    """Axes from 0 and lines; `series` is (color, dashes, [(gigabytes, value)])."""
    top, width, height = 50, 330, 250
    x_of = lambda x: left + x / greatest_x * width
    y_of = lambda y: top + height - y / greatest_y * height
    out.append(f'<text x="{left}" y="{top - 18}" font-weight="bold">{title}</text>')
    for i in range(int(greatest_y / step_y + 1e-9) + 1):
        y = y_of(i * step_y)
        out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{i * step_y:g}</text>')
    for x in range(0, int(greatest_x) + 1, 2):
        out.append(f'<text x="{x_of(x):.1f}" y="{top + height + 18}" text-anchor="middle">{x}</text>')
    out.append(f'<line x1="{left}" y1="{top + height}" x2="{left + width}" y2="{top + height}" stroke="#333"/>'
               f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">{text}</text>'
               f'<text x="{left - 34}" y="{top - 4}">{unit}</text>')
    for color, dashes, points in series:
        out.append(polyline([(x_of(x), y_of(y)) for x, y in points], color, dashes))


def draw(results, picture):
    with open(results) as file:
        points = json.load(file)
    stored = [point for point in points if point["experts_in_memory"] and not point["limit"]]
    mapped = [point for point in points if not point["experts_in_memory"]]
    colors = {"even": "#1f5fa8", "zipf": "#c2571a"}
    names = {"even": "tokens drawn evenly", "zipf": "tokens as frequent as words in a text"}
    dashes = ' stroke-dasharray="6 4"'
    speed, read = [], []
    greatest_x = 2 * int(max(point["experts_in_memory"] for point in stored) / 2e9 + 1)
    for kind, color in colors.items():
        own = sorted((point for point in stored if point["tokens"] == kind), key=lambda p: p["experts_in_memory"])
        if not own:
            continue
        speed.append((color, "", [(p["experts_in_memory"] / 1e9, p["tokens_per_second"]) for p in own]))
        read.append((color, "", [(p["experts_in_memory"] / 1e9, p["bytes_per_token"] / 1e9) for p in own]))
    legend = [(colors[kind], "", names[kind]) for kind in colors if any(p["tokens"] == kind for p in stored)]
    for point in mapped:
        color = "#777" if point["limit"] else "#2a8a3e"
        y = point["tokens_per_second"]
        speed.append((color, dashes, [(0, y), (greatest_x, y)]))
        where = f'mapped, {point["limit"] / 1e9:.1f} GB of memory in all' if point["limit"] else "mapped, memory for everything"
        legend.append((color, dashes, f'{where} ({point["tokens"]}): {y:.2f}'))
    fastest = max(y for _, _, line in speed for _, y in line)
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10) if fastest / s <= 6)
    most = max(y for _, _, line in read for _, y in line)
    out = []
    axis = "memory for experts, GB (--experts-in-memory)"
    panel(out, 60, "Decoding", "tokens/s", greatest_x, step * (int(fastest / step) + 1), step, speed, axis)
    panel(out, 470, "Read from disk per token", "GB", greatest_x, 0.2 * (int(most / 0.2) + 1), 0.2, read, axis)
    for i, (color, dash, name) in enumerate(legend):
        x, y = 60 + 410 * (i % 2), 365 + 20 * (i // 2)
        out.append(f'<line x1="{x}" y1="{y - 4}" x2="{x + 28}" y2="{y - 4}" stroke="{color}" stroke-width="2"{dash}/>'
                   f'<text x="{x + 36}" y="{y}">{name}</text>')
    height = 385 + 20 * ((len(legend) - 1) // 2)
    with open(picture, "w") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="830" height="{height}" viewBox="0 0 830 {height}" '
                   'font-family="sans-serif" font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>\n')
        file.write("\n".join(out) + "\n</svg>\n")


def read_choices(path):
    """[layer][token] → experts, from a dump of the router."""
    with open(path, "rb") as file:
        header_bytes = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(header_bytes))
        layers = []
        for name in sorted(header):
            if not name.endswith("router.index"):
                continue
            tokens, chosen = header[name]["shape"]
            file.seek(8 + header_bytes + header[name]["data_offsets"][0])
            values = struct.unpack(f"<{tokens * chosen}i", file.read(4 * tokens * chosen))
            layers.append([values[t * chosen:(t + 1) * chosen] for t in range(tokens)])
    return layers


def skewed_choices(deviation, layers=3, experts=64, chosen=8, tokens=400, topic=150):
    """Every expert has a liking, half of it its own and half of it the topic's, which changes; Gumbel noise decides."""
    rng = random.Random(1)
    result = []
    for _ in range(layers):
        own = [rng.gauss(0, deviation) for _ in range(experts)]
        rows = []
        for t in range(tokens):
            if t % topic == 0:
                liking = [x / 2 + rng.gauss(0, deviation) for x in own]
            noisy = [x - math.log(-math.log(rng.random())) for x in liking]
            rows.append(sorted(sorted(range(experts), key=lambda e: -noisy[e])[:chosen]))
        result.append(rows)
    return result


def share_found(choices, slots, half_life):
    """Without half-life: the one that was not used for longest makes room. The first quarter is not counted."""
    used, since, held = {}, {}, {}
    now = lookups = hits = 0
    for t in range(len(choices[0])):
        for layer, rows in enumerate(choices):
            needed = {(layer, expert) for expert in rows[t]}
            for expert in sorted(needed):
                now += 1
                if half_life:
                    age = t - since.get(expert, t)
                    used[expert] = used.get(expert, 0) * 2 ** (-age / half_life) + 1
                    since[expert] = t
                if t >= len(rows) // 4:
                    lookups += 1
                    hits += expert in held
                if expert in held:
                    held[expert] = now
            for expert in sorted(needed - held.keys()):
                if len(held) >= slots:
                    least = lambda e: (used[e] * 2 ** (-(t - since[e]) / half_life) if half_life else 0, held[e])
                    del held[min(held.keys() - needed, key=least)]
                held[expert] = now
    return hits / lookups


def compare_policies(dumps):
    half_lives = [None, 8, 32, 64, 128, 512, 4096]
    print("choices, slots of all".ljust(34) + "".join(("LRU" if h is None else f"LFU {h}").rjust(9) for h in half_lives))
    traces = [(os.path.basename(path), read_choices(path)) for path in dumps]
    traces += [(f"made up, deviation {deviation}", skewed_choices(deviation)) for deviation in (0.7, 1.2)]
    for name, choices in traces:
        experts = 1 + max(expert for rows in choices for row in rows for expert in row)
        for share in (0.12, 0.35, 0.6):
            slots = int(share * experts * len(choices))
            row = "".join(f"{share_found(choices, slots, h):9.3f}" for h in half_lives)
            print(f"{name}, {100 * share:.0f} %".ljust(34) + row)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--model", required=True)
    measuring.add_argument("--out", required=True)
    measuring.add_argument("--fathom", default="build/fathom")
    measuring.add_argument("--tokens", choices=["even", "zipf"], default="even")
    measuring.add_argument("--sizes", default="2GB")
    measuring.add_argument("--mapped", action="store_true", help="plain mapping instead of a store")
    measuring.add_argument("--limit", type=size_bytes, help="memory of the cgroup")
    measuring.add_argument("--warm", type=int, default=16, help="tokens of the first prompt")
    measuring.add_argument("--count", type=int, default=12, help="tokens measured")
    drawing = commands.add_parser("draw")
    drawing.add_argument("results")
    drawing.add_argument("picture")
    comparing = commands.add_parser("policies")
    comparing.add_argument("dumps", nargs="*")
    arguments = parser.parse_args()
    if arguments.command == "measure":
        measure(arguments)
    elif arguments.command == "policies":
        compare_policies(arguments.dumps)
    else:
        draw(arguments.results, arguments.picture)


if __name__ == "__main__":
    main()
