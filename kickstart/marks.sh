# Words to the builder, one line each, on the virtio port made for them and on
# the serial console. The stage 2 of Anaconda has no stat, timeout or install.
KILN_RUN={{ run }}
KILN_STAGE={{ stage }}
kiln_say() {
  local port
  for port in /dev/virtio-ports/io.kiln.bake.0 /dev/ttyS0; do
    [ ! -c "$port" ] || printf '%s\n' "$*" >"$port" || :
  done
}
kiln_step() { kiln_say "KILN-STEP $KILN_RUN $KILN_STAGE $*"; }
kiln_power_off() {
  sync
  # At once, whatever still runs; never returns.
  echo o >/proc/sysrq-trigger
  sleep 30
  poweroff -ff
}
# The end of the log, the reason, power off.
kiln_fail() {
  trap - ERR EXIT
  set +eu
  local line
  tail -n 40 "$KILN_LOG" | while IFS= read -r line; do
    kiln_say "KILN-LOG $KILN_RUN $KILN_STAGE $line"
  done
  line="$*"
  kiln_say "KILN-MARK $KILN_RUN $KILN_STAGE fail ${line//$'\n'/ }"
  kiln_power_off
}
# From here on whatever fails ends the installation, with its place.
kiln_guard() {
  KILN_WHERE="$1"
  set -Eeuo pipefail
  trap 'KILN_WHERE="${KILN_WHERE%% line *} line $LINENO ($BASH_COMMAND)"' ERR
  trap 'kiln_status=$?; [ "$kiln_status" = 0 ] || kiln_fail "$KILN_WHERE: exit status $kiln_status"' EXIT
}
