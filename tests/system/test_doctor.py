#!/usr/bin/env python3
"""What `doctor` says of hosts that lack something: each row with its remedy, and whether a
machine can run.

usage: test_doctor.py DOPPEL
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

from tap import Report, Skip, equal

CANNOT_RUN = 1


class Host:
    def __init__(self, doppel, work):
        # Where another user can execute it, too.
        self.work = work
        self.doppel = shutil.copy(doppel, os.path.join(work, "doppel"))
        self.environment = {**os.environ, "HOME": work, "XDG_CACHE_HOME": work,
                            "XDG_RUNTIME_DIR": work}
        os.chmod(work, 0o755)

    def doctor(self, *before, status=0):
        """Its rows by name, and the whole; `before` is put before the command."""
        done = subprocess.run([*before, self.doppel, "doctor", "--json"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60, check=False, env=self.environment)
        equal(done.returncode, status, f"exit status; {done.stderr}")
        told = json.loads(done.stdout)
        equal(told["can_run"], status == 0, "can_run")
        rows = {row["name"]: row for row in told["checks"]}
        for name, row in rows.items():
            assert row["value"] and row["meaning"], name
            assert row["state"] == "ok" or row["remedy"], f"{name} is {row['state']}: no remedy"
        return rows, told

    def elsewhere(self, script):
        """The words that run a command after the script, in mount namespaces of its own."""
        words = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
        if subprocess.run([*words, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
            raise Skip("this host gives no mount namespaces")
        return [*words, "sh", "-c", f'set -e; {script}; exec "$@"', "sh"]

    def file(self, name, mode):
        path = os.path.join(self.work, name)
        with open(path, "w", encoding="ascii"):
            pass
        os.chmod(path, mode)
        return path


def row_is(row, state, value, remedy):
    equal(row["state"], state, row["name"])
    assert value in row["value"], row
    assert remedy in row["remedy"], row


def kvm(report, host):
    with report.case("/dev/kvm is absent, and so is tun"):
        rows, told = host.doctor(*host.elsewhere("mount -t tmpfs none /dev"))
        row_is(rows["/dev/kvm"], "ok", "absent", "modprobe kvm_intel")
        row_is(rows["tun"], "warning", "No such file", "modprobe tun")
        assert told["engine"]["name"] != "kvm"
        assert "kvm:" in told["engine"]["why"], told["engine"]
    with report.case("/dev/kvm is without permission"):
        if os.geteuid() != 0:
            raise Skip("needs root, to become somebody else")
        if not os.path.exists("/dev/kvm"):
            raise Skip("/dev/kvm is absent")
        path = host.file("closed", 0)
        rows, told = host.doctor(*host.elsewhere(f"mount --bind {path} /dev/kvm"), "setpriv",
                                 "--reuid", "65534", "--regid", "65534", "--clear-groups")
        row_is(rows["/dev/kvm"], "warning", "no permission", "usermod -aG kvm")
        assert told["engine"]["name"] != "kvm"
    with report.case("/dev/kvm is something else"):
        if not os.path.exists("/dev/kvm"):
            raise Skip("/dev/kvm is absent")
        path = host.file("other", 0o666)
        rows, told = host.doctor(*host.elsewhere(f"mount --bind {path} /dev/kvm"))
        row_is(rows["/dev/kvm"], "warning", "unusable", "version")
        assert told["engine"]["name"] != "kvm"


def limits(report, host):
    with report.case("few open files"):
        rows, _ = host.doctor("prlimit", "--nofile=64", "--")
        row_is(rows["open files"], "warning", "64", "ulimit -n 1024")
    with report.case("little address space"):
        rows, _ = host.doctor("prlimit", f"--as={3 << 30}", "--")
        row_is(rows["address space"], "warning", "3G", "ulimit -v unlimited")
    with report.case("little locked memory"):
        rows, _ = host.doctor("prlimit", f"--memlock={32 << 10}", "--")
        row_is(rows["locked memory"], "warning", "32K", "ulimit -l")
    with report.case("no cache"):
        environment, host.environment = host.environment, {
            name: value for name, value in host.environment.items()
            if name not in ("HOME", "XDG_CACHE_HOME")}
        rows, _ = host.doctor()
        host.environment = environment
        row_is(rows["cache"], "warning", "HOME is not set", "XDG_CACHE_HOME")


def nothing_told(report, host):
    with report.case("there is no /proc"):
        rows, _ = host.doctor(*host.elsewhere("mount -t tmpfs none /proc"))
        for name in ("overcommit", "max_map_count", "memory"):
            row_is(rows[name], "warning", "cannot be told", "mount -t proc")


def main():
    report = Report()
    with tempfile.TemporaryDirectory(prefix="doppel-doctor-") as work:
        host = Host(sys.argv[1], work)
        with report.case("as it is here"):
            host.doctor()
        kvm(report, host)
        limits(report, host)
        nothing_told(report, host)
        with report.case("no room for guest memory: no machine can run"):
            rows, _ = host.doctor("prlimit", "--fsize=0", "--", "sh", "-c",
                                  'trap "" XFSZ; exec "$@"', "sh", status=CANNOT_RUN)
            row_is(rows["memfd"], "missing", "refused", "memfd_create")
    report.end()


main()
