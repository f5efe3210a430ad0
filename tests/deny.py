#!/usr/bin/env python3
"""Checks what is built in against deny.toml, as `cargo deny check bans licenses sources` does.

For machines without cargo-deny, which takes longer to build than the gateway. Knows of deny.toml allowed
licences and their exceptions, denied crates and their wrappers, registries; not wildcards in versions.
Ends with 1 and a line for each crate that may not be built in.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKEN = re.compile(r"[()]|[^\s()]+(?: WITH [^\s()]+)?")


def is_allowed(expression, allowed):
    """Whether an SPDX expression can be met with the allowed licences; AND binds closer than OR."""
    tokens = TOKEN.findall(expression.replace("/", " OR "))

    def term():
        token = tokens.pop(0)
        if token != "(":
            return token.removesuffix("+") in allowed
        inner = alternatives()
        assert tokens.pop(0) == ")", expression
        return inner

    def chain(word, part, join):
        found = [part()]
        while tokens[:1] == [word]:
            tokens.pop(0)
            found.append(part())
        return join(found)

    def alternatives():
        return chain("OR", lambda: chain("AND", term, all), any)

    return alternatives() and not tokens


def graph(target):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    command += ["--filter-platform", target]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in found["packages"]}
    nodes = {node["id"]: node["dependencies"] for node in found["resolve"]["nodes"]}
    return packages, nodes


def faults(rules, target):
    packages, nodes = graph(target)
    licences = rules["licenses"]
    exceptions = {entry["crate"]: entry["allow"] for entry in licences["exceptions"]}
    denied = {entry["crate"]: entry.get("wrappers", []) for entry in rules["bans"]["deny"]}
    for node, dependencies in nodes.items():
        package = packages[node]
        name = package["name"]
        if package["source"] and not re.fullmatch(r"registry\+.*/crates\.io-index", package["source"]):
            yield f"{name}: from {package['source']}"
        allowed = licences["allow"] + exceptions.get(name, [])
        licence = package["license"] or "no licence expression"
        if package["source"] and not is_allowed(licence, allowed):
            yield f"{name}: {licence}"
        for dependency in dependencies:
            inner = packages[dependency]["name"]
            if inner in denied and name not in denied[inner]:
                yield f"{inner}: denied, and {name} needs it"


def main():
    for expression, expected in [
        ("MIT", True),
        ("GPL-3.0", False),
        ("MIT/GPL-3.0", True),
        ("MIT AND GPL-3.0 OR GPL-2.0", False),
        ("(MIT OR GPL-3.0) AND MIT", True),
        ("MIT WITH Some-exception", False),
    ]:
        assert is_allowed(expression, ["MIT"]) == expected, expression
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    found = {fault for target in rules["graph"]["targets"] for fault in faults(rules, target)}
    for fault in sorted(found):
        print(f"may not be built in: {fault}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
