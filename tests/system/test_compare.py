#!/usr/bin/env python3
"""bench/compare: what it measures, what it says, and machines that end, hang or differ.

usage: test_compare.py SOURCE-DIRECTORY BUILD-DIRECTORY
"""
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

from tap import Report, Skip, equal

SOURCE, BUILD = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
FAKE = SOURCE / "tests/system/guest/bench_machine.py"
sys.path.insert(0, str(SOURCE / "bench"))
from comparison import report as comparison_report
from comparison.image import ImageError, unshare_options


def compare(*arguments, status=0):
    done = subprocess.run([SOURCE / "bench/compare", "--build", BUILD, *map(str, arguments)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500,
                          check=False)
    equal(done.returncode, status, f"status, after {done.stderr}\n{done.stdout}\n")
    return done


def says(text, *parts):
    for part in parts:
        assert part in text, f"{part!r} is missing from:\n{text}"


def check_words(report):
    with report.case("workloads are listed, and unknown ones refused by name"):
        listed = compare("--list").stdout
        says(listed, "sha256", "matmul-avx2", "parallel2")
        says(compare("--only", "hush", status=2).stderr, "no workload or group hush")
        says(compare("--runs", "0", status=2).stderr, "must be greater than 0")
        says(compare("--skip", "hash", "--only", "hash", status=2).stderr, "no workload is left")
    with report.case("files that cannot be read are named"):
        says(compare("--from", "/nonexistent.json", status=1).stderr, "/nonexistent.json")


def need_namespaces():
    try:
        unshare_options()
    except ImageError as error:
        raise Skip(str(error)) from None


def check_engines(report, work):
    with report.case("engines that are not there are refused before anything runs"):
        need_namespaces()
        says(compare("--engines", "interpretor", status=1).stderr, "engine interpretor", "interpreter")
        says(compare("--engines", "interpreter@/nonexistent", status=1).stderr,
             "/nonexistent is missing")
    with report.case("an image that a comparison uses is not changed under it"):
        need_namespaces()
        build = work / "build"
        (build / "bench/programs").mkdir(parents=True)
        for name in ("work", "driver"):
            (build / f"bench/programs/compare_{name}").touch()
        (build / "bench/compare").mkdir()
        with open(build / "bench/compare/lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            says(compare("--build", build, "--kernel", "/dev/null", status=1).stderr,
                 "another comparison uses")
    with report.case("guests of one and of two processors and the host do the same work"):
        need_namespaces()
        path = work / "real.json"
        shown = compare("--engines", "native,interpreter", "--runs", 2, "--scale", 0.01, "--only",
                        "boot,aes,python,calls,signal,jit,parallel", "--json", path).stdout
        says(shown, "x native", "geometric means", "CPU seconds of two processors against one")
        results = json.loads(path.read_text())
        for name, workload in results["workloads"].items():
            engines = {"interpreter"} if name == "boot" else {"interpreter", "native"}
            equal(set(workload["engines"]), engines, f"engines of {name}")
            for engine, row in workload["engines"].items():
                equal(row["errors"], [], f"errors of {name} under {engine}")
                equal(len(row["cpu"]), 2, f"runs of {name} under {engine}")
                assert min(row["cpu"]) > 0, f"{name} under {engine} took no time"
        equal(results["workloads"]["parallel1"]["engines"]["native"]["check"],
              results["workloads"]["parallel2"]["engines"]["interpreter"]["check"],
              "result of one thread and of two")
        again = compare("--from", path).stdout
        equal(again, shown, "what --from shows")


def check_trouble(report, work):
    """Machines that answer as a guest would, up to a point."""
    def run(*engines, limit=60, status=1):
        path = work / f"{engines[-1]}.json"
        labels = [f"{engine}@{FAKE}" for engine in engines]
        done = compare("--engines", ",".join(labels), "--runs", 1, "--only", "hash,sort,calls",
                       "--limit", limit, "--json", path, status=status)
        return labels, done, json.loads(path.read_text())["workloads"]

    with report.case("a machine that ends is started again for the rest"):
        need_namespaces()
        labels, done, workloads = run("good", "ends")
        says(done.stdout, f"FAILED: sort under {labels[1]}: ended with status 3")
        equal([len(workloads[name]["engines"][labels[1]]["cpu"]) for name in workloads], [1, 0, 1],
              "what was measured")
        equal([len(workloads[name]["engines"][labels[0]]["cpu"]) for name in workloads], [1, 1, 1],
              "what the other engine did")
    with report.case("a workload that hangs costs its time limit"):
        need_namespaces()
        labels, done, workloads = run("hangs", limit=3)
        says(done.stdout, f"FAILED: sort under {labels[0]}: the time limit is over")
        equal(len(workloads["calls"]["engines"][labels[0]]["cpu"]), 1, "runs after it")
    with report.case("a workload that fails is reported with what it wrote"):
        need_namespaces()
        _, done, _ = run("fails")
        says(done.stdout, "status 5: what it wrote")
    with report.case("different results are reported"):
        need_namespaces()
        labels, done, _ = run("good", "differs")
        says(done.stdout, f"DIFFERENT RESULTS: sort: 17:00ff under {labels[0]}, "
             f"18:00ff under {labels[1]}")
    with report.case("a machine that does not start is reported for each workload"):
        need_namespaces()
        _, done, _ = run("missing")
        says(done.stdout, "FAILED: hash", "FAILED: calls", "this engine is broken")


def example():
    """Numbers from which the table can be computed in the head."""
    def row(*cpu):
        return {"cpu": list(cpu), "wall": [2 * value for value in cpu], "check": "1:1",
                "errors": []}
    return {
        "host": {"date": "2000-01-01", "processors": 2, "processor": "a processor <&>",
                 "kernel": "6", "load": [0, 0, 0], "guest": "vmlinuz", "qemu": None},
        "settings": {"runs": 3, "scale": 1, "append": ""},
        "engines": ["native", "qemu", "interpreter"],
        "workloads": {
            "boot": {"group": "boot", "title": "", "engines": {
                "qemu": row(2, 2, 2), "interpreter": row(4, 4, 4)}},
            "hash": {"group": "compute", "title": "", "engines": {
                "native": row(1, 2, 1), "qemu": row(8, 8, 8), "interpreter": row(2, 2, 9)}},
        },
    }


def check_report(report, work):
    with report.case("medians, ratios and geometric means are right"):
        lines = {line.split()[0]: line.split()[1:]
                 for line in comparison_report.table(example()).splitlines() if line.split()}
        equal(lines["hash"], ["1.000", "2.00", "8.000", "16.00", "8.0", "2.000", "4.00", "2.0",
                              "4.00"], "hash")
        equal(lines["boot"], ["-", "-", "2.000", "4.00", "-", "4.000", "8.00", "-", "0.50"], "boot")
        equal(lines["all"], ["8.0", "2.0", "1.41"], "all")
        equal(lines["least"], ["x", "qemu", "of", "interpreter:", "0.50", "(boot)"], "least")
    with report.case("what was measured under which conditions is told"):
        says(comparison_report.conditions(example()), "2 processors (a processor <&>)",
             "medians of 3 runs.", "no QEMU")
        results = example()
        results["workloads"]["hash"]["engines"]["qemu"]["cpu"].pop()
        says(comparison_report.conditions(results), "medians of 2 to 3 runs.")
    with report.case("the chart is well-formed and has a mark for each ratio"):
        root = xml.etree.ElementTree.fromstring(comparison_report.chart(example()))
        marks = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
        equal(marks[1:], ["hash, qemu: 8.00", "hash, interpreter: 2.00"], "marks")
    with report.case("the document keeps what is around the table"):
        original = (SOURCE / "docs/performance.md").read_text()
        (work / "performance.md").write_text(original)
        for _ in range(2):
            comparison_report.write_docs(example(), work)
            text = (work / "performance.md").read_text()
            before, _, rest = original.partition(comparison_report.BEGIN)
            after = rest.partition(comparison_report.END)[2]
            assert text.startswith(before) and text.endswith(after), "the rest was changed"
            table = text.partition(comparison_report.BEGIN)[2].partition(comparison_report.END)[0]
            equal(table.count("geometric means"), 1, "number of tables")


def main():
    report = Report()
    with tempfile.TemporaryDirectory(prefix="doppel-compare-") as folder:
        work = pathlib.Path(folder)
        check_words(report)
        check_engines(report, work)
        check_trouble(report, work)
        check_report(report, work)
    report.end()


if __name__ == "__main__":
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    main()
