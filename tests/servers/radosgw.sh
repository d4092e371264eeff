#!/usr/bin/env bash
# A real S3 server on loopback: Ceph's object gateway over one monitor and one OSD that keeps everything in memory.
#
#   KEY=... SECRET=... radosgw.sh start FOLDER PORT   returns when it answers, in about 15 s; uses PORT, PORT+1 and PORT+2
#   radosgw.sh stop FOLDER                            ends what was started from FOLDER; its data is gone
#
# Needs root and, on Debian: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common ceph-mgr curl
# Keys, pid files and logs lie in FOLDER. When the start fails, nothing of it keeps running.
set -euo pipefail

DEADLINE_S=150

exec 3>&2 # what fail says is seen, also where the output goes to a log

fail() { echo "radosgw.sh: $*" >&3; exit 1; }

stop() {
  local folder=$1 file pid
  for file in "$folder"/*.pid; do
    [[ -f $file ]] || continue
    pid=$(<"$file")
    # The process must be of this folder: numbers of dead processes are given to others.
    if [[ -n $pid && -r /proc/$pid/cmdline ]] && tr '\0' ' ' < "/proc/$pid/cmdline" | grep -qF "$folder/ceph.conf"; then
      kill -9 "$pid" 2>/dev/null || true # its data is in memory: nothing is lost by haste
    fi
    rm -f "$file"
  done
}

free_port() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

start() {
  folder=$1 # global: the trap of EXIT runs when locals are gone
  local port=$2 monitor=$(($2 + 1)) program number
  for program in radosgw radosgw-admin ceph ceph-mon ceph-osd ceph-authtool monmaptool curl; do
    command -v "$program" > /dev/null || fail "$program is not installed"
  done
  [[ $(id -u) == 0 ]] || fail "needs root"
  [[ -n ${KEY:-} && -n ${SECRET:-} ]] || fail "give the user's access key and secret in KEY and SECRET"
  for number in "$port" "$monitor" $((port + 2)); do free_port "$number" || fail "port $number is taken"; done
  mkdir -p "$folder"
  [[ -z $(ls -A "$folder") ]] || fail "$folder is not empty"
  mkdir -m 700 "$folder"/{mon,osd,run}
  local until=$((SECONDS + DEADLINE_S)) conf="$folder/ceph.conf" fsid osd address
  fsid=$(</proc/sys/kernel/random/uuid)
  osd=$(</proc/sys/kernel/random/uuid)
  address="[v2:127.0.0.1:$monitor/0,v1:127.0.0.1:$((port + 2))/0]"
  trap 'undo "$?" "$folder"' EXIT
  cat > "$conf" <<C
[global]
fsid = $fsid
mon host = $address
mon initial members = a
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon max pg per osd = 1000
mon osd full ratio = .99
run dir = $folder/run
admin socket = $folder/run/\$name.asok
log file = $folder/\$name.log
pid file = $folder/\$name.pid
mon data = $folder/mon
osd data = $folder/osd
osd objectstore = memstore
memstore device bytes = ${BYTES:-2147483648}
ms bind ipv6 = false
public network = 127.0.0.0/8
keyring = $folder/keyring
rgw frontends = beast endpoint=127.0.0.1:$port
rgw dns name = localhost
debug mon = 0
debug osd = 0
debug rgw = 0
C
  local ceph=(timeout $DEADLINE_S ceph -c "$conf") as=(--setuser root --setgroup root)
  cd "$folder" && touch start.log && chmod 600 start.log # radosgw-admin prints the keys
  {
    ceph-authtool --create-keyring keyring --gen-key -n mon. --cap mon 'allow *'
    ceph-authtool keyring --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    ceph-authtool keyring --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
    chmod 600 keyring
    monmaptool --create --clobber --fsid "$fsid" --addv a "$address" monmap
    ceph-mon -c "$conf" --mkfs -i a --monmap monmap --keyring keyring "${as[@]}"
    ceph-mon -c "$conf" -i a "${as[@]}" 3>&- # or a caller who reads what fail says would wait for its end
    "${ceph[@]}" osd new "$osd"
    "${ceph[@]}" auth import -i keyring
    ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd" "${as[@]}"
    ceph-osd -c "$conf" -i 0 "${as[@]}" 3>&-
    until "${ceph[@]}" osd stat -f json | grep -q '"num_up_osds":1'; do
      ((SECONDS < until)) || fail "the OSD is not up after $DEADLINE_S s; see $folder/osd.0.log"
      sleep 0.2
    done
    radosgw -c "$conf" -n client.admin "${as[@]}" 3>&-
    until curl -sf -o "$folder/run/answer" "http://127.0.0.1:$port/"; do
      ((SECONDS < until)) || fail "the gateway does not answer after $DEADLINE_S s; see $folder/client.admin.log"
      sleep 0.2
    done
    timeout $DEADLINE_S radosgw-admin -c "$conf" user create --uid=kdray --display-name=kdray \
      --access-key="$KEY" --secret="$SECRET"
  } > "$folder/start.log" 2>&1
  trap - EXIT
}

undo() {
  stop "$2"
  if [[ -s $2/start.log ]]; then fail "did not start (exit $1): $(tail -n 3 "$2/start.log")"; fi
}

case ${1:-} in
  start) start "$(readlink -m "${2:?folder}")" "${3:?port}" ;;
  stop) stop "$(readlink -m "${2:?folder}")" ;;
  *) fail "use: start FOLDER PORT, or stop FOLDER" ;;
esac
