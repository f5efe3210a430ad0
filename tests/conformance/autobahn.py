#!/usr/bin/env python3
"""Runs Autobahn's fuzzing client against an echo address and reads what it found.

usage: autobahn.py --url WS_URL --agent NAME CASE...     (a case: 1.*, 9.1.3 …)

Autobahn needs Python 2.7 and the packages of services/requirements-autobahn.txt in
tests/.cache/autobahn (`tests/run install` brings them). It exits 0 whatever happens, so its
index.json is read: every case asked for must be there, none FAILED. Prints one JSON line
{"ok": bool, "cases": N, "behaviour": {...}, "failed": [...]} and exits 0 or 1. Runs may go on side
by side: each has a folder of its own under tests/.cache/autobahn-reports, kept when a case failed.
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys

CACHE = pathlib.Path(__file__).resolve().parent.parent / ".cache"
PACKAGES = CACHE / "autobahn"
TIMEOUT_S = 900
FINE = {"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}
WSTEST = "from autobahntestsuite.wstest import run; run()"


def python27():
    """The newest Python 2.7 that pyenv has."""
    root = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    found = sorted(root.glob("versions/2.7.*/bin/python"))
    return str(found[-1]) if found else shutil.which("python2.7")


def run(url, agent, cases, report):
    spec = report / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "outdir": str(report),
                "servers": [{"agent": agent, "url": url}],
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    log = report / "log"
    with log.open("w") as out:
        subprocess.run(
            [python27(), "-c", WSTEST, "-m", "fuzzingclient", "-s", str(spec)],
            env=os.environ | {"PYTHONPATH": str(PACKAGES)},
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            cwd=report,
            check=True,
        )
    return json.loads((report / "index.json").read_text())[agent]


def judge(index, cases):
    behaviour = collections.Counter(one["behavior"] for one in index.values())
    failed = [
        f"{case}: {one['behavior']}, close {one['behaviorClose']}"
        for case, one in sorted(index.items())
        if one["behavior"] not in FINE or one["behaviorClose"] not in FINE
    ]
    for pattern in cases:
        if not any(case.startswith(pattern.rstrip("*")) for case in index):
            failed.append(f"{pattern}: not run")
    return {"ok": not failed, "cases": len(index), "behaviour": behaviour, "failed": failed}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--agent", required=True)
    parser.add_argument("cases", nargs="+")
    asked = parser.parse_args()
    report = CACHE / "autobahn-reports" / f"{asked.agent}-{os.getpid()}"
    shutil.rmtree(report, ignore_errors=True)
    report.mkdir(parents=True)
    verdict = judge(run(asked.url, asked.agent, asked.cases, report), asked.cases)
    if verdict["ok"]:
        shutil.rmtree(report)
    else:
        verdict["report"] = str(report)
    print(json.dumps(verdict))
    return 0 if verdict["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
