#!/bin/bash
# The command line from outside: exit statuses, messages, streams. TAP.
# usage: test_cli.sh DOPPEL SOURCE-DIRECTORY
set -uo pipefail

doppel=$1
source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
number=0

# verdict RESULT NAME: one line of TAP; what went wrong before it, as comments.
verdict() {
    number=$((number + 1))
    if [ "$1" = 0 ]; then
        echo "ok $number - $2"
    else
        [ ! -s "$work/out" ] || sed 's/^/# stdout: /' "$work/out" | head -n 5
        [ ! -s "$work/err" ] || sed 's/^/# stderr: /' "$work/err" | head -n 5
        echo "not ok $number - $2"
    fi
}

# expect NAME STATUS STDOUT-PATTERN STDERR-PATTERN ARGUMENTS...
# The patterns are extended regular expressions for one line; '' stands for no output.
expect() {
    local name=$1 status=$2 out=$3 err=$4 got result=0
    shift 4
    timeout 20 "$doppel" "$@" </dev/null >"$work/out" 2>"$work/err"
    got=$?
    [ "$got" = "$status" ] || { echo "# exit status $got, not $status" && result=1; }
    matches "$work/out" "$out" || { echo "# stdout lacks: $out" && result=1; }
    matches "$work/err" "$err" || { echo "# stderr lacks: $err" && result=1; }
    verdict $result "$name"
}

matches() {
    if [ -z "$2" ]; then
        [ ! -s "$1" ]
    else
        grep -qE -- "$2" "$1"
    fi
}

expect "no command is a usage error" 2 '' '^usage: doppel COMMAND'
expect "--help" 0 '^usage: doppel COMMAND' '' --help
expect "--version" 0 '^doppel [0-9]+\.[0-9]+' '' --version
expect "version" 0 '^doppel [0-9]+\.[0-9]+' '' version
expect "help of a command" 0 '^  --kernel FILE' '' help run
expect "--help of a command" 0 '^usage: doppel doctor' '' doctor --help
expect "a mistyped command" 2 '' '^doppel: unknown command docter; did you mean doctor\?$' docter
expect "an unknown command" 2 '' 'unknown command launch; doppel help lists' launch
expect "help of a mistyped command" 2 '' 'did you mean run\?' help rnu
expect "a mistyped option" 2 '' '^doppel: unknown option --memroy; did you mean --memory\?$' \
    run --memroy 1G
expect "an option of a later version" 2 '' '--cdrom: it is not available in this version' \
    run --cdrom disk.iso
expect "an engine of a later version" 2 '' '--engine direct is not available in this version' \
    run --engine direct
expect "a mistyped machine" 2 '' "unknown value 'mirco' of --machine; did you mean micro" \
    run --machine mirco
expect "an unexpected argument" 2 '' "^doppel: unexpected argument 'vmlinuz'" run vmlinuz
expect "an option without its value" 2 '' '--kernel needs a value: --kernel FILE' run --kernel
expect "no kernel" 2 '' '--kernel FILE' run
for cpus in 0 1000 -1 two ''; do
    expect "--cpus '$cpus'" 2 '' '--cpus' run --kernel x --cpus "$cpus"
done
for memory in 0 1M -5 1X 99999999999T ''; do
    expect "--memory '$memory'" 2 '' '--memory' run --kernel x --memory "$memory"
done
expect "a wrong console" 2 '' '--console takes stdio, none, pty or socket=PATH' \
    run --kernel x --console vga
expect "a missing kernel" 125 '' '^doppel: .*/nonexistent' run --kernel /nonexistent
expect "a folder as kernel" 125 '' '^doppel: .*/tmp' run --kernel /tmp
head -c 4096 /dev/zero >"$work/zeros"
expect "zeros as kernel" 125 '' "^doppel: .*$work/zeros" run --kernel "$work/zeros"
: >"$work/empty"
expect "an empty kernel" 125 '' "^doppel: .*$work/empty" run --kernel "$work/empty"
expect "an unwritable statistics file" 125 '' '^doppel: --exit-stats: cannot write /nonexistent/s' \
    run --kernel "$work/zeros" --exit-stats /nonexistent/s
expect "a socket in a missing folder" 125 '' '^doppel: --console socket: /nonexistent/s: cannot listen' \
    run --kernel "$work/zeros" --console socket=/nonexistent/s
expect "doctor names the engine" 0 '^engine: [a-z]+ ' '' doctor
expect "doctor --json" 0 '^  "can_run": true' '' doctor --json
expect "completion without a shell" 2 '' 'choose bash, zsh or fish' completion
for shell in bash zsh fish; do
    expect "completion $shell" 0 doppel '' completion $shell
    if command -v $shell >/dev/null; then
        $shell -n "$work/out" 2>"$work/err"
        verdict $? "completion $shell is a correct script"
    fi
done

for stream in '>&-' '>/dev/full'; do
    eval "timeout 20 \"$doppel\" --help $stream 2>\"\$work/err\""
    status=$?
    : >"$work/out"
    [ $status = 125 ] && grep -q 'cannot write to standard output' "$work/err"
    verdict $? "help $stream is an error"
done

expect "engines: each with what this host says of it" 0 '^    works here|^    taken by|^    cannot be used here' '' \
    engines
expect "engines: one can make deterministic runs" 0 'can make deterministic runs' '' engines
expect "engines as JSON" 0 '"name": "interpreter"' '' engines --json
expect "instructions: a sensitive one, by the interpreter's routine" 0 \
    '^SGDT +behaviour-sensitive .*routine.* stores GDTR' '' engines --instructions
expect "instructions as JSON" 0 '"class": "control-sensitive"' '' engines --instructions --json
expect "engines --markdown alone" 2 '' '--markdown goes with --instructions' engines --markdown
expect "deterministic, with two processors" 125 '' \
    '--deterministic: 2 processors are never in step; use --cpus 1' \
    run --deterministic --cpus 2 --engine interpreter --kernel "$doppel"
expect "deterministic, by an engine that does not count" 125 '' \
    '--deterministic: the engine kvm cannot count instructions' \
    run --deterministic --engine kvm --kernel "$doppel"
expect "a trace that cannot be written" 125 '' '--trace-exits: cannot write /proc/none' \
    run --deterministic --trace-exits /proc/none --kernel "$doppel"
expect "nothing to compare" 2 '' 'give either the directory of a snapshot or a kernel' compare
expect "compare: an engine that does not count" 2 '' \
    "--engines kvm,interpreter: no instructions are counted by 'kvm'" \
    compare --engines kvm,interpreter --kernel "$doppel"
expect "compare: no such engine" 2 '' "there is no engine 'fast'" \
    compare --engines interpreter,fast --kernel "$doppel"
expect "compare: an interval of nothing" 2 '' '--interval takes a number of steps, 1 or more' \
    compare --interval 0 --kernel "$doppel"
expect "compare: no such snapshot" 125 '' 'cannot restore /proc/none' compare /proc/none

"$doppel" help --markdown >"$work/cli.md"
diff -u "$source/docs/cli.md" "$work/cli.md" >"$work/out"
verdict $? "docs/cli.md is what help --markdown writes"

"$doppel" help --api >"$work/api.md"
diff -u "$source/docs/api.md" "$work/api.md" >"$work/out"
verdict $? "docs/api.md is what help --api writes"

"$doppel" engines --instructions --markdown >"$work/instructions.md"
diff -u "$source/docs/instructions.md" "$work/instructions.md" >"$work/out"
verdict $? "docs/instructions.md is what engines --instructions --markdown writes"

echo "1..$number"
