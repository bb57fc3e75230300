//! Who can log in.

use kiln_protocol::install::LoginWay;

use super::super::survey::Survey;
use super::{Expected, Verdict};

pub(super) const CONTENTS: [&str; 5] =
    ["/etc/passwd", "/etc/shadow", "/etc/sudoers", "/etc/sudoers.d/*", "/home/*/.ssh/authorized_keys"];
const SUDOERS: &str = "/etc/sudoers.d/kiln-break-glass";

/// The accounts one can log in to, with how; for the report.
pub(in crate::inspect) fn logins(survey: &Survey) -> Vec<String> {
    let mut logins = Vec::new();
    for (name, password) in shadow(survey) {
        if opens(&password) {
            logins.push(format!("{name}: with a password"));
        }
    }
    for entry in survey.entries().filter(|entry| entry.path.ends_with("/.ssh/authorized_keys")) {
        let keys = survey.text(&entry.path).unwrap_or_default();
        let keys = keys.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).count();
        logins.push(format!("{}: {keys} ssh keys", entry.path));
    }
    logins
}

pub(super) fn judge(survey: &Survey, expected: &Expected, verdict: &mut Verdict) {
    let login = expected.login.as_ref();
    let with_password = login.filter(|login| login.by == LoginWay::Password).map(|login| login.user.as_str());

    verdict.rule("passwords", "nobody has a password but the login the image was ordered with");
    if survey.text("/etc/shadow").is_none() {
        verdict.at("/etc/shadow", "is missing or is no text");
    }
    for (name, password) in shadow(survey) {
        if password.is_empty() {
            verdict.at("/etc/shadow", format!("{name} needs no password at all"));
        } else if opens(&password) && Some(name.as_str()) != with_password {
            verdict.at("/etc/shadow", format!("{name} has a password"));
        }
    }
    if let Some(name) = with_password
        && !shadow(survey).iter().any(|(user, password)| user == name && opens(password))
    {
        verdict.at("/etc/shadow", format!("{name} has no password, and the image was ordered with one"));
    }

    verdict.rule("root-accounts", "root is the only one of its kind, and passwords are in /etc/shadow");
    let passwd = survey.text("/etc/passwd");
    if passwd.is_none() {
        verdict.at("/etc/passwd", "is missing or is no text");
    }
    for line in passwd.unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [name, _, "0", ..] if *name != "root" => {
                verdict.at("/etc/passwd", format!("{name} is root as well"));
            }
            [name, password, ..] if *password != "x" && opens(password) => {
                verdict.at("/etc/passwd", format!("{name} has its password here"));
            }
            _ => {}
        }
    }

    verdict.rule("sudo", "nobody becomes root without a password but the login the image was ordered with");
    let files =
        std::iter::once("/etc/sudoers").chain(survey.in_dir("/etc/sudoers.d").map(|e| e.path.as_str()));
    for path in files {
        let text = survey.text(path).unwrap_or_default();
        let free =
            text.lines().map(str::trim).any(|line| !line.starts_with('#') && line.contains("NOPASSWD"));
        if free && !(path == SUDOERS && login.is_some()) {
            verdict.at(path, "lets somebody become root without a password");
        }
    }
    match (survey.get(SUDOERS).is_some(), login) {
        (true, None) => verdict.at(SUDOERS, "belongs to a login the image was not ordered with"),
        (false, Some(login)) => {
            verdict.at(SUDOERS, format!("is missing: {} could not become root", login.user));
        }
        _ => {}
    }
}

/// Names and password fields.
fn shadow(survey: &Survey) -> Vec<(String, String)> {
    let text = survey.text("/etc/shadow").unwrap_or_default();
    let pair = |line: &str| {
        let mut fields = line.split(':').map(str::to_owned);
        Some((fields.next()?, fields.next()?))
    };
    text.lines().filter_map(pair).collect()
}

/// Whether a password field lets anybody in: `!` and `*` are no hash's
/// beginning.
fn opens(password: &str) -> bool {
    !password.starts_with(['!', '*'])
}
