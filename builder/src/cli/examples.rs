//! Examples at the end of each subcommand's `--help`.

pub(super) const BAKE: &str = "\
Examples:
  builder bake --version alma9-k3-node-amd64-v1.28.5-v1 --airgap
  builder bake --version alma9-k3-node-amd64-v1.28.5-v1 --iso AlmaLinux-9-latest-x86_64-dvd.iso --k3s ./k3s
  builder bake --version alma9-k3-node-amd64-v1.28.5-v2 --iso dvd.iso --k3s ./k3s --kickstart own.ks --explain
  builder bake --version alma9-k3-node-amd64-v1.28.5-v1 --iso dvd.iso --k3s ./k3s --json --on-error keep";

pub(super) const SIGN: &str = "\
Examples:
  builder sign --new-key kiln
  builder sign images/alma9-k3-node-amd64-v1.28.5-v1 --key kiln.key

The first makes kiln.key, which signs, and kiln.pub, which checks. The format is minisign's: `minisign -Vm SHA256SUMS -p kiln.pub` checks the same signature.";

pub(super) const VERIFY: &str = "\
Examples:
  builder verify images/alma9-k3-node-amd64-v1.28.5-v1
  builder verify images/alma9-k3-node-amd64-v1.28.5-v1 --key kiln.pub --json";

pub(super) const UP: &str = "\
Examples:
  builder up cluster.toml --image images/alma9-k3-node-amd64-v1.28.5-v1
  builder up cluster.toml --restore /srv/backups/k3s/state.db";

pub(super) const DOWN: &str = "\
Examples:
  builder down cluster.toml";

pub(super) const STATUS: &str = "\
Examples:
  builder status cluster.toml
  builder status cluster.toml --json";

pub(super) const REBOOT: &str = "\
Examples:
  builder reboot cluster.toml k3s-s1";

pub(super) const PREFLIGHT: &str = "\
Examples:
  builder preflight
  builder preflight --kickstart own.ks --offline --json
  builder preflight --almalinux-mirror https://mirror.example.org/almalinux/

Exit codes: 0 nothing is missing (there may be warnings), 1 something is.";

pub(super) const KICKSTART: &str = "\
Examples:
  builder kickstart os
  builder kickstart os --template
  builder kickstart os --kickstart own.ks --k3s-selinux
  builder kickstart node";

pub(super) const GC: &str = "\
Examples:
  builder gc
  builder gc --yes
  builder gc --json";

pub(super) const CACHE: &str = "\
Examples:
  builder cache list
  builder cache verify --json
  builder cache prune --older-than 720h
  builder cache prune --max-size 20GiB --yes";

pub(super) const COMPLETIONS: &str = "\
Examples:
  builder completions bash
  builder completions zsh";
