# Sourced by the scripts that try StoneFS on real programs: a scratch directory, a release binary, a mount that goes
# away whatever happens, and a line for every claim.
#
# Sets: $scratch, $stone, $db, $mnt. Reads: STONE (a binary to try instead of the one that is built), STONE_SCRATCH.

set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -d "$HOME/.cargo/bin" ] && PATH="$HOME/.cargo/bin:$PATH"
stone=${STONE-}
if [ -z "$stone" ]; then
    (cd "$root" && cargo build -q --release --locked --bin stone) || exit 1
    stone=$root/target/release/stone
fi
scratch=$(mktemp -d "${STONE_SCRATCH:-/var/tmp}/stone-XXXXXX")
db=$scratch/work.stone
mnt=$scratch/mnt
mkdir "$mnt"
good=0 bad=0 failures=()

mount_it() { timeout 60 "$stone" mount "$@" </dev/null; }
umount_it() { timeout 300 "$stone" umount "${1:-$mnt}"; }
daemon_pid() { "$stone" --mount "$mnt" --json status | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' | head -n 1; }

# Ends the connection of a FUSE mount, so that nobody waits for a daemon that is gone or hangs, and the mount.
abort_mount() {
    local minor
    minor=$(awk -v d="$1" '$5 == d {split($3, n, ":"); print n[2]}' /proc/self/mountinfo | tail -n 1)
    [ -n "$minor" ] && { echo 1 >"/sys/fs/fuse/connections/$minor/abort"; } 2>/dev/null
    umount -l "$1" 2>/dev/null || fusermount3 -uz "$1" 2>/dev/null
}

# claim NAME COMMAND...: runs it (600 s at most, CLAIM_LIMIT to change), prints ok or FAILED with its last lines.
claim() {
    local name=$1 began=$SECONDS out=$scratch/claim.log status
    shift
    [[ $name =~ ${ONLY:-.} ]] || return 0
    if [ "$(type -t "$1")" = function ]; then
        ( set -e; "$@" ) >"$out" 2>&1 </dev/null
    else
        timeout --kill-after=5 "${CLAIM_LIMIT:-600}" "$@" >"$out" 2>&1 </dev/null
    fi
    status=$?
    if [ $status = 0 ]; then
        good=$((good + 1))
        printf 'ok      %4d s  %s\n' $((SECONDS - began)) "$name"
    else
        bad=$((bad + 1))
        failures+=("$name")
        printf 'FAILED  %4d s  %s (status %d)\n' $((SECONDS - began)) "$name" $status
        tail -n 15 "$out" | cut -c1-300 | sed 's/^/          | /'
    fi
    return 0
}

finish_scratch() {
    trap - EXIT INT TERM
    cd /
    local dir
    awk -v s="$scratch/" 'index($5, s) == 1 {print $5}' /proc/self/mountinfo | tac | while read -r dir; do
        timeout 60 "$stone" umount "$dir" 2>/dev/null || timeout 20 umount "$dir" 2>/dev/null || abort_mount "$dir"
    done
    if ! grep -q " $scratch/" /proc/self/mountinfo; then
        [ -n "${KEEP-}" ] && echo "kept: $scratch" || rm -rf --one-file-system "$scratch"
    fi
    echo
    [ $bad = 0 ] || printf 'failed: %s\n' "${failures[@]}"
    echo "$good passed, $bad failed"
    [ $bad = 0 ]
    exit $?
}
trap finish_scratch EXIT
trap 'exit 1' INT TERM
