#!/usr/bin/env python3
"""The control socket and the commands that use it, with machines that run.

usage: test_control.py DOPPEL ENGINE
"""
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

from doppel import Doppel, status_of_signal
from guestfiles import code, elf64
from tap import Report, Skip, equal

SECONDS = 20
HOST_ERROR = 125
USAGE = 2

# Says READY, sends back what it gets, powers off when the power button was pressed.
ECHO = ("66ba f803 b052 ee b045 ee b041 ee b044 ee b059 ee b00a ee"
        "66ba fd03 ec a801 7406 66ba f803 ec ee 66ba 0006 66ed f6c401 74e6"
        "66ba 0406 66b8 0034 66ef f4 ebfd")
DEAF = "f4 ebfd"


class Host:
    def __init__(self, doppel, engine, work):
        self.doppel = doppel
        self.engine = engine
        self.work = work
        self.runtime = os.path.join(work, "run")
        os.mkdir(self.runtime, 0o700)
        self.environment = dict(os.environ, XDG_RUNTIME_DIR=self.runtime)
        self.echo = self.file("echo.elf", elf64(code(ECHO)))
        self.deaf = self.file("deaf.elf", elf64(code(DEAF)))

    def file(self, name, content):
        path = os.path.join(self.work, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def run(self, *arguments, kernel=None, **options):
        options.setdefault("env", self.environment)
        return Doppel([self.doppel, "run", "--engine", self.engine, "--memory", "16M",
                       "--kernel", kernel or self.echo, *arguments], **options)

    def command(self, *arguments, status=0):
        done = subprocess.run([self.doppel, *arguments], env=self.environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=SECONDS, check=False)
        equal(done.returncode, status, f"status of {arguments} ({done.stderr})")
        return done.stderr if status else done.stdout

    def socket_of(self, name):
        return os.path.join(self.runtime, "doppel", name + ".sock")

    def connect(self, path):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)  # waits for its turn; with a time limit it would not
        connection.settimeout(SECONDS)
        return connection

    def wait_for(self, name):
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                with self.connect(self.socket_of(name)) as connection:
                    if request(connection, "GET", "/doppel/console")[1].startswith(b"READY"):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"{name} did not come up")


def request(connection, method, path, body=None, headers=""):
    """Returns the status and the body."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.sendall(f"{method} {path} HTTP/1.1\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
                       .encode() + data)
    return answer(connection)


def answer(connection):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, f"the connection ended after {head!r}"
        head += byte
    lines = head.decode().split("\r\n")
    length = next((int(line.split(":")[1]) for line in lines
                   if line.lower().startswith("content-length:")), 0)
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return int(lines[0].split()[1]), body


def receive(connection, end):
    data = b""
    while end not in data:
        piece = connection.recv(4096)
        assert piece, f"the console ended after {data!r}"
        data += piece
    return data


def attach(host, name):
    connection = host.connect(host.socket_of(name))
    status, _ = request(connection, "GET", "/doppel/console",
                        headers="Connection: Upgrade\r\nUpgrade: doppel-console\r\n")
    equal(status, 101, "status of the upgrade")
    return connection


def commands(report, host):
    with host.run("--name", "one") as one, \
            host.run("--name", "two", "--cpus", "2", "--console", "none") as two:
        host.wait_for("one")
        host.wait_for("two")
        with report.case("ps lists both, for people and programs"):
            lines = host.command("ps").splitlines()
            equal([line.split()[0] for line in lines], ["NAME", "one", "two"])
            machines = json.loads(host.command("ps", "--json"))
            equal([(m["name"], m["pid"], m["cpus"], m["state"]) for m in machines],
                  [("one", one.process.pid, 1, "running"), ("two", two.process.pid, 2, "running")])
        with report.case("the socket is the owner's alone"):
            mode = os.stat(host.socket_of("one")).st_mode
            equal(stat.S_IMODE(mode), 0o600)
            equal(stat.S_IMODE(os.stat(os.path.dirname(host.socket_of("one"))).st_mode), 0o700)
        with report.case("inspect"):
            assert "16M" in host.command("inspect", "two")
            machine = json.loads(host.command("inspect", "two", "--json"))
            equal((machine["memory"], machine["machine"]["cpus"]), (16 << 20, 2))
            equal(json.loads(host.command("inspect", host.socket_of("two"), "--json"))["name"],
                  "two")
        with report.case("stats"):
            assert "port I/O" in host.command("stats", "one")
            stats = json.loads(host.command("stats", "one", "--json"))
            assert stats["exits"]["totals"]["exits"]["io"]["count"] > 6, stats
            assert stats["memory"]["process"] > 0 and stats["threads"][0]["name"] == "cpu0", stats
        with report.case("pause stops it, resume lets it go on"):
            host.command("pause", "one")
            equal(json.loads(host.command("ps", "--json"))[0]["state"], "paused")
            before = json.loads(host.command("stats", "one", "--json"))["exits"]["totals"]
            host.command("pause", "one")
            time.sleep(0.1)
            after = json.loads(host.command("stats", "one", "--json"))["exits"]["totals"]
            equal(after, before)
            host.command("resume", "one")
            time.sleep(0.1)
            later = json.loads(host.command("stats", "one", "--json"))["exits"]["totals"]
            assert later["exits"]["io"]["count"] > before["exits"]["io"]["count"]
        with report.case("a second machine of the name is refused"):
            with host.run("--name", "one") as other:
                equal(other.wait(SECONDS), HOST_ERROR)
                assert "'one' is running already" in other.messages, other.messages
            host.command("inspect", "one")
        with report.case("stop presses the power button"):
            host.command("pause", "one")
            host.command("stop", "one")
            equal(one.wait(SECONDS), 0)
            assert not os.path.exists(host.socket_of("one"))
        with report.case("kill"):
            host.command("kill", "two")
            equal(two.wait(SECONDS), status_of_signal("SIGKILL"))
            equal(json.loads(host.command("ps", "--json")), [])


def snapshots(report, host):
    saved = os.path.join(host.work, "saved")
    with host.run("--name", "saved", "--console", "none") as machine:
        host.wait_for("saved")
        with report.case("snapshot needs a machine and a directory"):
            assert "which directory" in host.command("snapshot", "saved", status=USAGE)
            host.command("snapshot", "none", saved, status=HOST_ERROR)
            host.command("snapshot", "saved", "/nonexistent/x", status=HOST_ERROR)
            with host.connect(host.socket_of("saved")) as connection:
                for body in ({}, {"directory": "relative"}):
                    equal(request(connection, "PUT", "/doppel/snapshot", body)[0], 400)
        with report.case("a machine goes on after its snapshot, and again from it"):
            with attach(host, "saved") as client:
                client.sendall(b"abc")
                receive(client, b"abc")
                host.command("snapshot", "saved", saved)
                client.sendall(b"def")
                receive(client, b"def")
            host.command("stop", "saved")
            equal(machine.wait(SECONDS), 0)
            with Doppel([host.doppel, "restore", saved, "--engine", host.engine, "--name",
                         "again", "--console", "none"], env=host.environment) as second:
                deadline = time.monotonic() + SECONDS
                while not os.path.exists(host.socket_of("again")):
                    second.take(0.02)
                    assert time.monotonic() < deadline, second.tail()
                with attach(host, "again") as client:
                    client.sendall(b"ghi")
                    equal(receive(client, b"ghi"), b"ghi")
                host.command("stop", "again")
                equal(second.wait(SECONDS), 0)


def errors(report, host):
    for name in ("inspect", "stats", "console", "pause", "resume", "stop", "kill"):
        with report.case(f"{name} of no machine, of none such, help"):
            assert "which machine" in host.command(name, status=USAGE)
            assert "no virtual machine named 'none'" in host.command(name, "none",
                                                                     status=HOST_ERROR)
            assert "usage: doppel " + name in host.command(name, "--help")
            host.command(name, "../etc", status=HOST_ERROR)
    with report.case("names that cannot be"):
        for name in ("", "a/b", ".x", "a" * 65, "\udcff"):
            with host.run("--name", name) as machine:
                equal(machine.wait(SECONDS), HOST_ERROR, f"status with {name!r}")
                assert "--name" in machine.messages, machine.messages


def ends(report, host):
    with report.case("a guest that does not listen is ended when its time is over"):
        with host.run("--name", "deaf", kernel=host.deaf) as machine:
            while not os.path.exists(host.socket_of("deaf")):
                machine.take(0.02)
            host.command("stop", "deaf", "--timeout", "1")
            equal(machine.wait(SECONDS), status_of_signal("SIGKILL"))
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        with report.case(f"{name} removes the socket"):
            with host.run("--name", "gone") as machine:
                machine.expect("READY")
                machine.signal(getattr(signal, name))
                equal(machine.wait(SECONDS), status_of_signal(name))
                assert not os.path.exists(host.socket_of("gone"))
    with report.case("a machine whose process is stopped is told, with its process"):
        with host.run("--name", "stopped") as machine:
            machine.expect("READY")
            machine.signal(signal.SIGSTOP)
            (entry,) = json.loads(host.command("ps", "--json"))
            equal((entry["name"], entry["state"], entry["pid"]),
                  ("stopped", "unreachable", machine.process.pid))
            if host.engine == "interpreter":  # it takes ten seconds, so once
                said = host.command("pause", "stopped", status=HOST_ERROR)
                assert f"kill -9 {machine.process.pid} would end it" in said, said
            machine.signal(signal.SIGCONT)
            host.command("stop", "stopped")
            equal(machine.wait(SECONDS), 0)
    with report.case("what a killed process leaves is stale: not listed, its name free"):
        with host.run("--name", "stale") as machine:
            machine.expect("READY")
            machine.signal(signal.SIGKILL)
            machine.process.wait()
        assert os.path.exists(host.socket_of("stale"))
        with host.run("--name", "stale") as machine:
            machine.expect("READY")
            host.command("inspect", "stale")
            machine.signal(signal.SIGKILL)
            machine.process.wait()
        equal(json.loads(host.command("ps", "--json")), [])
        assert not os.path.exists(host.socket_of("stale"))


def console(report, host):
    with host.run("--name", "talk", "--console", "none") as machine:
        host.wait_for("talk")
        with report.case("two consoles see the same, and what was before"):
            first, second = attach(host, "talk"), attach(host, "talk")
            receive(first, b"READY\n")
            first.sendall(b"ab")
            equal(receive(first, b"ab"), b"ab")
            equal(receive(second, b"ab"), b"READY\nab")
            second.sendall(b"\xff\x00\x01")
            equal(receive(first, b"\x01"), b"\xff\x00\x01")
            first.close()
            second.sendall(b"c")
            receive(second, b"c")
            second.close()
        with report.case("doppel console: a terminal that attaches, detaches, attaches"):
            for text in ("one", "two"):
                with Doppel([host.doppel, "console", "talk"], terminal=True,
                            env=host.environment) as client:
                    client.expect("READY", SECONDS)
                    client.send(text.encode())
                    client.expect(text, SECONDS)
                    client.send(b"\x01d")
                    equal(client.wait(SECONDS), 0)
            assert host.command("console", "talk", "--log").endswith("onetwo")
        with report.case("a client that is killed does no harm"):
            client = Doppel([host.doppel, "console", "talk"], stdin=subprocess.PIPE,
                            env=host.environment)
            with client:
                client.expect("READY", SECONDS)
                client.signal(signal.SIGKILL)
            host.command("inspect", "talk")
        with report.case("the end of the machine ends the console"):
            with Doppel([host.doppel, "console", "talk"], stdin=subprocess.PIPE,
                        env=host.environment) as client:
                client.expect("READY", SECONDS)
                host.command("stop", "talk")
                equal(client.wait(SECONDS), 0)
            equal(machine.wait(SECONDS), 0)


def descriptors(machine):
    return len(os.listdir(f"/proc/{machine.process.pid}/fd"))


def hostile(report, host):
    with host.run("--name", "target", "--console", "none") as machine:
        host.wait_for("target")
        path = host.socket_of("target")
        before = descriptors(machine)
        cases = {
            "no HTTP": (b"\x16\x03\x01\x02\x00\n", 400),
            "bytes that are no text": (b"\xff\xfe\x80 / HTTP/1.1\r\n\r\n", 400),
            "a huge body": (b"PUT /vm HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
            "chunks": (b"PUT /vm HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
            "an endless head": (b"GET / HTTP/1.1\r\nA: " + b"b" * 9000, 431),
        }
        for name, (data, status) in cases.items():
            with report.case(f"refused: {name}"):
                with host.connect(path) as connection:
                    connection.sendall(data)
                    equal(answer(connection)[0], status)
                    equal(connection.recv(1), b"", "the connection's end")
        bodies = {
            "no JSON": b"{", "no object": b"[1]", "not UTF-8": b'{"state": "\xff"}',
            "unknown field": {"stat": "Paused"}, "wrong type": {"state": 1},
            "unknown value": {"state": "paused"}, "nothing": None,
            "deep": b'{"state": ' + b"[" * 20000 + b"]" * 20000 + b"}",
            "twice": b'{"state": "Paused", "state": "Resumed"}',
        }
        with report.case("wrong bodies get a message and keep the connection"):
            with host.connect(path) as connection:
                for name, body in bodies.items():
                    status, text = request(connection, "PATCH", "/vm", body)
                    equal(status, 400, name)
                    assert json.loads(text)["fault_message"], name
                equal(request(connection, "GET", "/nope")[0], 404)
                equal(request(connection, "DELETE", "/vm")[0], 405)
                equal(request(connection, "GET", "/", b"{}")[0], 400)
                equal(json.loads(request(connection, "GET", "/")[1])["state"], "Running")
        with report.case("a thousand clients that come and go leave nothing"):
            for number in range(1000):
                with host.connect(path) as connection:
                    if number % 2:
                        connection.sendall(b"GET /doppel/stats HTTP/1.1\r\n\r\nGET")
            deadline = time.monotonic() + SECONDS
            while descriptors(machine) > before and time.monotonic() < deadline:
                time.sleep(0.05)
            assert descriptors(machine) <= before, (descriptors(machine), before)
        with report.case("who sends half a request, or does not read, holds up nobody"):
            slow = [host.connect(path) for _ in range(20)]
            for connection in slow:
                connection.sendall(b"GET /doppel/stats HTTP/1.1\r\n\r\n" * 200 + b"GET")
            started = time.monotonic()
            host.command("stats", "target")
            assert time.monotonic() - started < 5
            for connection in slow:
                connection.close()
        with report.case("pipelined requests are answered in order"):
            with host.connect(path) as connection:
                connection.sendall(b"GET /version HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
                assert b"firecracker_version" in answer(connection)[1]
                assert b"Running" in answer(connection)[1]
        host.command("stop", "target")
        equal(machine.wait(SECONDS), 0)


def configuration(report, host):
    with report.case("--config gives options, the command line overrides them"):
        path = host.file("vm.json", json.dumps({
            "name": "file", "memory": "32M", "cpus": 2, "console": "none",
            "kernel": host.echo, "no-reboot": True}).encode())
        dry = json.loads(host.command("run", "--config", path, "--cpus", "3", "--dry-run"))
        equal((dry["memory"], dry["cpus"], dry["console"], dry["no_reboot"]),
              (32 << 20, 3, "none", True))
    wrong = {'{"memroy": 1}': "did you mean 'memory'", '{"cpus": "2"}': "cpus must be",
             '{"cpus": 99}': "cpus 99", '{"console": "vga"}': "console", "{": ":1:",
             "[]": "JSON object", '{"config": "x"}': "another"}
    for text, message in wrong.items():
        with report.case(f"--config with {text}"):
            path = host.file("wrong.json", text.encode())
            said = host.command("run", "--config", path, "--kernel", host.echo, status=USAGE)
            assert message in said and "--config" in said, said
    with report.case("--config with a file that is not there"):
        assert "/nonexistent" in host.command("run", "--config", "/nonexistent", status=USAGE)


def firecracker(report, host):
    path = os.path.join(host.work, "api.sock")
    with Doppel([host.doppel, "run", "--engine", host.engine, "--api-socket", path, "--console",
                 "none"], env=host.environment) as machine:
        while not os.path.exists(path):
            machine.take(0.02)
        connection = host.connect(path)

        def ask(method, where, body=None, status=204):
            got, text = request(connection, method, where, body)
            equal(got, status, f"{method} {where} {body}: {text}")
            return json.loads(text) if text else None

        with report.case("a machine waits to be configured"):
            equal(ask("GET", "/", status=200)["state"], "Not started")
            equal(ask("GET", "/machine-config", status=200)["vcpu_count"], 1)
            ask("PUT", "/actions", {"action_type": "InstanceStart"}, 400)
            ask("PATCH", "/vm", {"state": "Paused"}, 400)
            ask("PUT", "/machine-config", {"vcpu_count": 2}, 400)
            ask("PUT", "/machine-config", {"vcpu_count": 2, "mem_size_mib": 16, "smt": True}, 400)
            ask("PUT", "/machine-config", {"vcpu_count": 99, "mem_size_mib": 16}, 400)
            ask("PUT", "/machine-config", {"vcpu_count": 2, "mem_size_mib": 16})
            ask("PATCH", "/machine-config", {"mem_size_mib": 24})
            equal(ask("GET", "/machine-config", status=200)["mem_size_mib"], 24)
            for track in (True, False):
                ask("PATCH", "/machine-config", {"track_dirty_pages": track})
                ask("PATCH", "/machine-config", {"vcpu_count": 2, "smt": None})
                equal(ask("GET", "/machine-config", status=200)["track_dirty_pages"], track)
            ask("PUT", "/boot-source", {"boot_args": "x"}, 400)
            ask("PUT", "/boot-source", {"kernel_image_path": "/nonexistent"}, 400)
        with report.case("a kernel that cannot be booted is refused, and another one taken"):
            ask("PUT", "/boot-source", {"kernel_image_path": __file__})
            said = ask("PUT", "/actions", {"action_type": "InstanceStart"}, 400)
            assert "cannot boot" in said["fault_message"], said
            ask("PUT", "/boot-source", {"kernel_image_path": host.echo, "boot_args": "a b"})
        with report.case("drives"):
            image = host.file("disk.img", bytes(1 << 20))
            ask("PUT", "/drives/a", {"drive_id": "b", "path_on_host": image}, 400)
            ask("PUT", "/drives/a", {"drive_id": "a"}, 400)
            ask("PUT", "/drives/a", {"drive_id": "a", "path_on_host": "/nonexistent"}, 400)
            said = ask("PUT", "/drives/a", {"drive_id": "a", "path_on_host": image,
                                            "rate_limiter": {"ops": {"size": 1}}}, 400)
            assert "rate_limiter is not available" in said["fault_message"], said
            ask("PUT", "/drives/a", {"drive_id": "a", "path_on_host": image,
                                     "is_root_device": True, "is_read_only": True,
                                     "rate_limiter": None, "socket": None})
            ask("PATCH", "/drives/a", {"drive_id": "a", "path_on_host": image}, 405)
            equal(ask("GET", "/vm/config", status=200)["drives"][0]["drive_id"], "a")
        metrics = os.path.join(host.work, "metrics")
        with report.case("InstanceStart starts it, over the same connection"):
            ask("PUT", "/metrics", {"metrics_path": metrics})
            ask("PUT", "/actions", {"action_type": "InstanceStart"})
            equal(ask("GET", "/", status=200)["state"], "Running")
            ask("PUT", "/actions", {"action_type": "InstanceStart"}, 400)
            ask("PUT", "/boot-source", {"kernel_image_path": host.echo}, 400)
            machine_is = ask("GET", "/doppel/inspect", status=200)["machine"]
            equal(machine_is["boot"]["append"], "a b root=/dev/vda ro")
            equal(machine_is["memory"], 24 << 20)
        with report.case("pause, resume, metrics, Ctrl-Alt-Del"):
            ask("PATCH", "/vm", {"state": "Paused"})
            equal(ask("GET", "/", status=200)["state"], "Paused")
            ask("PATCH", "/vm", {"state": "Resumed"})
            ask("PUT", "/actions", {"action_type": "FlushMetrics"})
            with open(metrics, encoding="utf-8") as file:
                equal(json.loads(file.read())["stats"]["state"], "running")
            text = request(connection, "GET", "/doppel/metrics")[1].decode()
            assert 'doppel_exits_total{vcpu="1",reason="io"}' in text, text
            ask("PUT", "/actions", {"action_type": "SendCtrlAltDel"})
            equal(machine.wait(SECONDS), 0)
            assert not os.path.exists(path)
        connection.close()
    with report.case("the wait for configuration ends by a signal, and by kill"):
        for end in ("signal", "kill"):
            with Doppel([host.doppel, "run", "--name", "wait", "--api-socket", path],
                        env=host.environment) as machine:
                while not os.path.exists(path):
                    machine.take(0.02)
                if end == "kill":
                    host.command("kill", "wait")
                else:
                    machine.signal(signal.SIGTERM)
                equal(machine.wait(SECONDS),
                      status_of_signal("SIGKILL" if end == "kill" else "SIGTERM"))
                assert not os.path.exists(path)


def main(doppel, engine):
    report = Report()
    if engine == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        with report.case("engine kvm"):
            raise Skip("no /dev/kvm that can be opened")
        report.end()
    with tempfile.TemporaryDirectory() as work:
        host = Host(os.path.abspath(doppel), engine, work)
        for part in (commands, snapshots, errors, ends, console, hostile, configuration,
                     firecracker):
            part(report, host)
    report.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
