#!/usr/bin/env python3
"""The jail as a running machine has it: what each thread has given up, what happens to one
that wants more, what works where the host refuses parts of it.

usage: test_jail.py DOPPEL
"""
import ctypes
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

from doppel import Doppel
from tap import Report, Skip, equal
from test_control import HOST_ERROR, SECONDS, Host, answer, request

NOBODY = 65534
# asm/unistd_64.h
UNSHARE, SECCOMP, LANDLOCK_CREATE_RULESET = 272, 317, 444
FILES = ["state", "memory", "kernel", "initrd", "manifest.json"]


def threads(vm):
    """The numbers of the machine's threads by their names, and their status files' fields."""
    folder = f"/proc/{vm.process.pid}/task"
    found = {}
    for number in os.listdir(folder):
        with open(f"{folder}/{number}/status", encoding="ascii") as file:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        found[int(number)] = fields
    return found


def numbers_of(vm, name):
    return [number for number, fields in threads(vm).items() if fields["Name"] == name]


def inspect(host, name):
    return json.loads(host.command("inspect", name, "--json"))


def restore(host, directory, name):
    return Doppel([host.doppel, "restore", directory, "--engine", host.engine, "--name", name],
                  env=host.environment)


def wait_until_jailed(host, name):
    """Restored machines, and those that wait for a debugger, do not say READY. A socket may
    still be that of a machine of this name that was killed."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            with host.connect(host.socket_of(name)) as connection:
                reply = request(connection, "GET", "/doppel/inspect")
                if reply[0] == 200 and json.loads(reply[1])["jail"]["closed"]:
                    return
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"{name} did not come up")


def has_kvm(host):
    done = subprocess.run([host.doppel, "doctor", "--json"], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, check=False)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    value = checks["/dev/kvm"]["value"]
    return None if "ring" in value else f"/dev/kvm: {value}"


def given_up(report, host):
    """Each thread of a machine with everything that has threads."""
    disk = host.file("disk.img", bytes(1 << 20))
    with report.case("every thread has given up everything"):
        with host.run("--name", "full", "--disk", disk, "--cpus", "2") as vm:
            host.wait_for("full")
            found = threads(vm)
            names = {fields["Name"] for fields in found.values()}
            assert names >= {"doppel", "cpu0", "cpu1", "disk", "console"}, names
            for fields in found.values():
                what = f"thread {fields['Name']}"
                equal(fields["NoNewPrivs"], "1", what)
                equal(fields["Seccomp"], "2", what)
                for kind in ["CapInh", "CapPrm", "CapEff", "CapAmb"]:
                    equal(int(fields[kind], 16), 0, f"{kind} of {what}")
                if os.geteuid() == 0:
                    equal(int(fields["CapBnd"], 16), 0, f"CapBnd of {what}")
            jail = inspect(host, "full")["jail"]
            assert jail["closed"]
            equal(jail["seccomp"]["state"], "on")
            is_elsewhere = (os.readlink(f"/proc/{vm.process.pid}/ns/net") !=
                            os.readlink("/proc/self/ns/net"))
            equal(is_elsewhere, jail["network namespace"]["state"] == "on")
            assert "jail       closed" in host.command("inspect", "full")
    with report.case("--no-jail keeps it all"):
        with host.run("--name", "free", "--no-jail") as vm:
            host.wait_for("free")
            with open("/proc/self/status", encoding="ascii") as file:
                own = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            for fields in threads(vm).values():
                for kind in ["NoNewPrivs", "Seccomp", "CapPrm", "CapBnd"]:
                    equal(fields[kind], own[kind], kind)
            assert not inspect(host, "free")["jail"]["closed"]
            assert "jail       off" in host.command("inspect", "free")


def make_call(number):
    """Lets that thread make a socket, and lists the descriptors then."""
    return subprocess.run(["gdb", "-nx", "-batch", "-p", str(number),
                           "-ex", "handle SIGSYS nostop noprint pass",
                           "-ex", "call (int)socket(2, 1, 0)",
                           "-ex", f"shell ls -l /proc/{number}/fd"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, check=False)


def sockets(vm):
    folder = f"/proc/{vm.process.pid}/fd"
    return sum("socket:" in os.readlink(f"{folder}/{number}") for number in os.listdir(folder))


def violate(host, vm, role, name):
    """A thread of that name makes a call that no role has. Virtual processors sleep then, as
    the machine waits for its debugger."""
    with vm:
        wait_until_jailed(host, "victim")
        numbers = numbers_of(vm, name)
        if not numbers:
            raise Skip(f"there is no thread '{name}' on this host")
        done = make_call(numbers[-1])
        if "Operation not permitted" in done.stderr:
            raise Skip("a debugger may not attach here")
        equal(vm.wait(), HOST_ERROR, f"status ({done.stdout} {done.stderr})")
        assert f"role '{role}' called socket (number 41; 0x2, 0x1, 0x0)" in vm.messages, \
            vm.messages
        assert "--no-jail" in vm.messages, vm.messages


def violations(report, host):
    disk = host.file("disk.img", bytes(1 << 20))
    saved = os.path.join(host.work, "victim")
    waiting = ["--name", "victim", "--gdb", os.path.join(host.work, "gdb") + ",wait"]
    roles = [("loop", "doppel"), ("vcpu", "cpu0"), ("disk", "disk"), ("console", "console")]
    for role, name in roles:
        with report.case(f"a thread of the role {role} that makes a socket ends the machine"):
            violate(host, host.run(*waiting, "--disk", disk), role, name)
    with report.case("the same of the role vcpu-steps"):
        violate(host, host.run(*waiting, "--deterministic"), "vcpu-steps", "cpu0")
    with report.case("the same of the role vcpu-kvm"):
        reason = has_kvm(host)
        if reason:
            raise Skip(reason)
        violate(host, host.run("--name", "victim", "--engine", "kvm"), "vcpu-kvm", "cpu0")
    with report.case("the same of the role ram"):
        with host.run("--name", "saved"):
            host.wait_for("saved")
            host.command("snapshot", "saved", saved)
        violate(host, restore(host, saved, "victim"), "ram", "ram")
    with report.case("without a jail the call is made"):
        with host.run(*waiting, "--no-jail") as vm:
            while "target remote" not in vm.messages or not numbers_of(vm, "cpu0"):
                vm.take(0.02)
            before = sockets(vm)
            done = make_call(numbers_of(vm, "cpu0")[0])
            if "Operation not permitted" in done.stderr:
                raise Skip("a debugger may not attach here")
            equal(done.stdout.count("socket:"), before + 1,
                  f"sockets ({done.stdout} {done.stderr})")


def put_files(host, name, descriptors):
    body = b"{}"
    with host.connect(host.socket_of(name)) as connection:
        data = f"PUT /doppel/snapshot HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        socket.send_fds(connection, [data + body], descriptors)
        return answer(connection)


def put_path(host, name, path):
    with host.connect(host.socket_of(name)) as connection:
        return request(connection, "PUT", "/doppel/snapshot", {"directory": path})


def refuses(reply, text):
    equal(reply[0], 400, f"status of {reply[1]}")
    assert text in reply[1].decode(), reply[1]


def snapshots(report, host):
    place = os.path.join(host.work, "place")
    elsewhere = os.path.join(host.work, "elsewhere")
    os.mkdir(place)
    os.mkdir(elsewhere)
    with report.case("by path, a snapshot needs --snapshot-dir, which message and help name"):
        with host.run("--name", "plain"):
            host.wait_for("plain")
            refuses(put_path(host, "plain", place + "/x"), "--snapshot-dir")
            equal(os.listdir(place), [])
            host.command("snapshot", "plain", place + "/by-command")
    with report.case("with it, directly beneath it alone"):
        with host.run("--name", "dir", "--snapshot-dir", place):
            host.wait_for("dir")
            equal(put_path(host, "dir", place + "/x")[0], 204)
            refuses(put_path(host, "dir", place + "/x"), "exists already")
            refuses(put_path(host, "dir", elsewhere + "/x"), "--snapshot-dir")
            refuses(put_path(host, "dir", place + "/x/y"), "--snapshot-dir")
            refuses(put_path(host, "dir", place + "/../elsewhere/y"), "--snapshot-dir")
            equal(os.listdir(elsewhere), [])
            equal(sorted(os.listdir(place)), ["by-command", "x"])
            equal(sorted(os.listdir(place + "/x")),
                  sorted(os.listdir(place + "/by-command")))
    for name in ["x", "by-command"]:
        with report.case(f"the machine goes on from {name}"):
            with restore(host, place + "/" + name, "again"):
                wait_until_jailed(host, "again")
                host.command("kill", "again")
    with report.case("a snapshot that is interrupted leaves nothing"):
        with host.run("--name", "slow") as vm:
            host.wait_for("slow")
            before = sorted(os.listdir(place))
            vm.signal(signal.SIGSTOP)
            command = subprocess.Popen([host.doppel, "snapshot", "slow", place + "/slow"],
                                       env=host.environment, stdin=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE)
            while len(os.listdir(place)) == len(before):
                time.sleep(0.02)
            while not has_made(place, before):
                time.sleep(0.02)
            command.send_signal(signal.SIGINT)
            _, errors = command.communicate(timeout=SECONDS)
            equal(command.returncode, 128 + signal.SIGINT, f"status ({errors})")
            equal(sorted(os.listdir(place)), before)
            vm.signal(signal.SIGCONT)
            host.command("snapshot", "slow", place + "/slow")
    with report.case("descriptors that are no empty files are refused"):
        with host.run("--name", "files") as vm:
            host.wait_for("files")
            before = len(os.listdir(f"/proc/{vm.process.pid}/fd"))
            made = [os.open(os.path.join(elsewhere, name), os.O_RDWR | os.O_CREAT, 0o600)
                    for name in FILES]
            read_only = os.open(os.path.join(elsewhere, "state"), os.O_RDONLY)
            ends = os.pipe()
            refuses(put_files(host, "files", made[:3]), "takes 5 descriptors, not 3")
            refuses(put_files(host, "files", made + made), "descriptors, not 8")
            refuses(put_files(host, "files", [read_only] + made[1:]), "descriptor 0, for state")
            refuses(put_files(host, "files", made[:4] + [ends[1]]), "manifest.json")
            equal(put_files(host, "files", made)[0], 204)
            refuses(put_files(host, "files", made), "is not an empty file")
            for number in [*made, *ends, read_only]:
                os.close(number)
            request_all_closed(host, "files")
            after = len(os.listdir(f"/proc/{vm.process.pid}/fd"))
            assert after <= before + 1, f"{after} descriptors instead of {before}"
    with report.case("--snapshot-dir that is none"):
        with host.run("--snapshot-dir", place + "/none") as vm:
            equal(vm.wait(), HOST_ERROR)
            assert "--snapshot-dir" in vm.messages, vm.messages


def has_made(place, before):
    """All files of the one that is being made."""
    made = [name for name in os.listdir(place) if name not in before]
    return len(os.listdir(os.path.join(place, made[0]))) == len(FILES)


def request_all_closed(host, name):
    """When this one is answered, those before it have been closed."""
    with host.connect(host.socket_of(name)) as connection:
        equal(request(connection, "GET", "/")[0], 200)


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def refuse_calls(*numbers):
    """From now on they fail with EPERM, as under a container's own filter."""
    code = struct.pack("HBBI", 0x20, 0, 0, 0)  # the number
    for number in numbers:
        code += struct.pack("HBBI", 0x15, 0, 1, number)  # is it this one?
        code += struct.pack("HBBI", 0x06, 0, 0, 0x00050001)  # EPERM
    code += struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000)  # go on
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0  # PR_SET_SECCOMP


def refused(report, host):
    """Where the host has less, the machine runs with what there is, and says so."""
    cases = {
        "Landlock": ([LANDLOCK_CREATE_RULESET], ["landlock"]),
        "seccomp": ([SECCOMP], ["seccomp"]),
        "namespaces": ([UNSHARE], ["network namespace", "ipc namespace"]),
        "all of them": ([UNSHARE, SECCOMP, LANDLOCK_CREATE_RULESET],
                        ["landlock", "seccomp", "network namespace", "ipc namespace"]),
    }
    for what, (calls, names) in cases.items():
        with report.case(f"without {what}"):
            with host.run("--name", "less", "--verbose",
                          preexec_fn=lambda numbers=calls: refuse_calls(*numbers)) as vm:
                host.wait_for("less")
                jail = inspect(host, "less")["jail"]
                people = host.command("inspect", "less")
                for name in names:
                    equal(jail[name]["state"], "refused", name)
                    assert f"without {name}: " in people, people
                equal(jail["no_new_privs"]["state"], "on")
                host.command("kill", "less")
                vm.wait()
                for name in names:
                    assert f"jail: {name} cannot be had: " in vm.messages, vm.messages


def containers(report, host):
    """A user without rights, in a user namespace in which there are no others."""
    with report.case("in a container without privileges"):
        if not shutil.which("unshare") or os.geteuid() != 0:
            raise Skip("it takes root and unshare(1) to make such a place")
        work = tempfile.mkdtemp(prefix="doppel-jail-")
        os.chmod(work, 0o755)
        for file in [host.doppel, host.echo]:
            shutil.copy(file, work)
        program = os.path.join(work, os.path.basename(host.doppel))
        own = os.path.join(work, "home")
        os.mkdir(own)
        os.chown(own, NOBODY, NOBODY)
        script = ("echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv "
                  "--bounding-set=-all --inh-caps=-all --no-new-privs "
                  f"{program} run --engine interpreter --memory 16M --name boxed --verbose "
                  f"--kernel {work}/echo.elf")
        try:
            with Doppel(["unshare", "--user", "--map-root-user", "sh", "-c", script],
                        env={"XDG_RUNTIME_DIR": own, "PATH": os.environ["PATH"]}, user=NOBODY, group=NOBODY, extra_groups=[],
                        cwd=own) as vm:
                vm.expect("READY")
                status = {fields["Name"]: fields for fields in threads(vm).values()}
                equal(status["cpu0"]["Seccomp"], "2")
                equal(int(status["cpu0"]["CapPrm"], 16), 0)
                vm.signal(15)
                equal(vm.wait(), 128 + 15)
                for name in ["network namespace", "ipc namespace"]:
                    assert f"jail: {name} cannot be had" in vm.messages, vm.messages
        finally:
            shutil.rmtree(work)


def main(doppel):
    report = Report()
    with tempfile.TemporaryDirectory(prefix="doppel-jail-") as work:
        host = Host(os.path.abspath(doppel), "interpreter", work)
        for part in (given_up, violations, snapshots, refused, containers):
            part(report, host)
    report.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
