//! Examples at the end of each subcommand's `--help`.

pub(super) const INIT: &str = "\
Examples:
  coordinator init --state ./state";

pub(super) const SERVE: &str = "\
Examples:
  coordinator serve --state ./state --cluster cluster.toml
  coordinator serve --listen 127.0.0.1:7443
  coordinator serve --state ./state --cluster cluster.toml --until-ready --timeout 20m";

pub(super) const TICKET: &str = "\
Examples:
  coordinator ticket --node k3s-a1 --advertise 10.23.45.5:7443 --out k3s-a1.ticket";

pub(super) const STATUS: &str = "\
Examples:
  coordinator status
  coordinator status --watch";

pub(super) const KUBECONFIG: &str = "\
Examples:
  coordinator kubeconfig --out admin.kubeconfig
  coordinator kubeconfig --user ann --group developers --lifetime 8h";

pub(super) const APPLY: &str = "\
Examples:
  coordinator apply --dry-run cluster.toml
  coordinator apply cluster.toml";

pub(super) const CONFIRM: &str = "\
Examples:
  coordinator confirm k3s-s1 0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

pub(super) const APPROVE: &str = "\
Examples:
  coordinator approve k3s-a1 --fingerprint 0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

pub(super) const PENDING: &str = "\
Examples:
  coordinator pending";

pub(super) const EXTEND: &str = "\
Examples:
  coordinator extend k3s-a1 --lifetime 2h";

pub(super) const RELEASE: &str = "\
Examples:
  coordinator release k3s-a1";

pub(super) const REVOKE: &str = "\
Examples:
  coordinator revoke k3s-a1";

pub(super) const ROTATE: &str = "\
Examples:
  coordinator rotate k3s-a1";

pub(super) const ROTATE_TOKENS: &str = "\
Examples:
  coordinator rotate-tokens";

pub(super) const ROTATE_CA: &str = "\
Examples:
  coordinator rotate-ca";

pub(super) const RAISE_EPOCH: &str = "\
Examples:
  coordinator raise-epoch";

pub(super) const PIN_CHANGE: &str = "\
Examples:
  coordinator pin-change --recovery-key /media/usb/recovery.key
  coordinator pin-change --state ./state";

pub(super) const REPLACE: &str = "\
Examples:
  coordinator replace k3s-s1 --restore /var/backups/k3s/state.db
  coordinator replace k3s-s1 --discard-data";

pub(super) const MEMBER_GONE: &str = "\
Examples:
  coordinator member-gone k3s-s2";

pub(super) const END: &str = "\
Examples:
  coordinator end home";

pub(super) const EVENTS: &str = "\
Examples:
  coordinator events --follow
  coordinator events --json --since 1200";

pub(super) const ADMIN: &str = "\
Examples:
  coordinator admin key ops.key
  coordinator admin add ops --public-key ops.pem
  coordinator admin list
  coordinator admin remove ops";

pub(super) const COMPLETIONS: &str = "\
Examples:
  coordinator completions bash";

pub(super) const BACKUP: &str = "\
Examples:
  coordinator backup /srv/backups/kiln-monday
  coordinator backup --unlock-key /etc/kiln-coordinator/unlock-key /srv/backups/kiln-monday";

pub(super) const RESTORE: &str = "\
Examples:
  coordinator restore /srv/backups/kiln-monday --state ./state --unlock-key ./kept/unlock-key";

pub(super) const UNLOCK_KEY: &str = "\
Examples:
  coordinator unlock-key make /etc/kiln-coordinator/unlock-key
  coordinator unlock-key rotate --unlock-key /etc/kiln-coordinator/unlock-key";
