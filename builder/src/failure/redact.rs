//! Takes secrets out of what is kept or sent along: passwords, their hashes,
//! tokens and private keys, wherever they stand in a text.
//!
//! Kiln's own kickstarts and command lines hold none. A kickstart of the
//! user's own may (`rootpw`, `user --password=`, a repository's URL), and
//! Anaconda's logs quote it.

/// What stands where a secret was.
const GONE: &str = "[redacted]";
/// `NAME=VALUE` and `NAME VALUE` (after `--`) whose value is one.
const NAMES: [&str; 7] = ["password", "passphrase", "passwd", "secret", "token", "iscrypted", "plaintext"];
/// Kickstart commands whose last word is one, unless it is an option.
const COMMANDS: [&str; 1] = ["rootpw"];
/// Beginnings of words that are one by themselves: hashes of crypt(5), k3s's tokens.
const WORDS: [&str; 6] = ["$1$", "$5$", "$6$", "$y$", "$2b$", "K10"];
/// Shorter ones are a name for something else, such as `$1$`.
const SHORTEST: usize = 20;
const KEY_BEGINS: &str = "-----BEGIN ";
const KEY_ENDS: &str = "-----END ";

/// The text without its secrets. Its lines keep their number and their order.
pub fn redact(text: &str) -> String {
    let mut inside_key = false;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let ending = if line.ends_with('\n') { "\n" } else { "" };
        let body = line.trim_end_matches('\n');
        let begins = body.contains(KEY_BEGINS) && body.contains("PRIVATE KEY");
        if inside_key || begins {
            out.push_str(GONE);
            inside_key = !body.contains(KEY_ENDS);
        } else {
            out.push_str(&redact_line(body));
        }
        out.push_str(ending);
    }
    out
}

fn redact_line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let last = line.split_ascii_whitespace().count();
    let command = line.split_ascii_whitespace().next().is_some_and(|word| COMMANDS.contains(&word));
    let mut value_follows = false;
    let mut seen = 0;
    // Words with the blanks around them, so that everything else stays as it is.
    for piece in line.split_inclusive([' ', '\t']) {
        let word = piece.trim_end_matches([' ', '\t', '\r']);
        let blanks = &piece[word.len()..];
        if !word.is_empty() {
            seen += 1;
        }
        let secret_of_command = command && seen == last && seen > 1 && !word.starts_with('-');
        if !word.is_empty() && ((value_follows && !word.starts_with('-')) || secret_of_command) {
            out.push_str(GONE);
        } else {
            out.push_str(&redact_word(word));
        }
        if !word.is_empty() {
            value_follows = word.strip_prefix("--").is_some_and(|name| NAMES.contains(&name));
        }
        out.push_str(blanks);
    }
    out
}

fn redact_word(word: &str) -> String {
    if let Some(at) = WORDS.iter().filter_map(|begin| word.find(begin)).min()
        && word.len() - at >= SHORTEST
    {
        return format!("{}{GONE}", &word[..at]);
    }
    if let Some((name, value)) = word.split_once('=')
        && !value.is_empty()
        && NAMES.iter().any(|secret| name.to_ascii_lowercase().ends_with(secret))
    {
        return format!("{name}={GONE}");
    }
    without_userinfo(word)
}

/// `scheme://user:password@host/` without what is before the `@`.
fn without_userinfo(word: &str) -> String {
    let Some((before, rest)) = word.split_once("://") else { return word.to_owned() };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((userinfo, _)) => format!("{before}://{GONE}{}", &rest[userinfo.len()..]),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_of_a_kickstart_go_and_the_rest_stays() {
        for (line, expected) in [
            ("rootpw --plaintext hunter2", "rootpw --plaintext [redacted]"),
            ("rootpw hunter2", "rootpw [redacted]"),
            ("rootpw --lock", "rootpw --lock"),
            (
                "user --name=op --password=$6$rounds=4096$abcdefgh$ijklmnop",
                "user --name=op --password=[redacted]",
            ),
            (
                "sshpw --username=root --iscrypted $6$abcdefgh$ijklmnopqrst",
                "sshpw --username=root --iscrypted [redacted]",
            ),
            (
                "url --url=https://me:secret@mirror/os/ --noverifyssl",
                "url --url=https://[redacted]@mirror/os/ --noverifyssl",
            ),
            ("  part / --onpart=vda4  --passphrase=x", "  part / --onpart=vda4  --passphrase=[redacted]"),
            ("bootloader --password grub --timeout=1", "bootloader --password [redacted] --timeout=1"),
            ("K3S_TOKEN=K10abc::server:def", "K3S_TOKEN=[redacted]"),
            (
                "INFO program: chpasswd -e root:$y$j9T$abcdefghijk$lmnop",
                "INFO program: chpasswd -e root:[redacted]",
            ),
            ("echo \"$1\" costs $5$ or $6", "echo \"$1\" costs $5$ or $6"),
            ("-drive file=/x,if=none,id=disk0", "-drive file=/x,if=none,id=disk0"),
        ] {
            assert_eq!(redact(line), expected);
        }
    }

    #[test]
    fn a_private_key_goes_whole() {
        let text = "a\n-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\nb\n-----BEGIN CERTIFICATE-----\nc\n";
        let redacted = redact(text);
        assert!(!redacted.contains("MIGH"), "{redacted}");
        assert!(redacted.starts_with("a\n") && redacted.ends_with("b\n-----BEGIN CERTIFICATE-----\nc\n"));
    }

    #[test]
    fn our_own_kickstart_is_left_as_it_is() {
        for text in [include_str!("../../../kickstart/alma9.ks"), include_str!("../../../kickstart/marks.sh")]
        {
            assert_eq!(redact(text), text);
        }
    }

    proptest! {
        #[test]
        fn lines_keep_their_number_and_a_second_time_changes_nothing(text in "[ -~\n\t]{0,200}") {
            let once = redact(&text);
            prop_assert_eq!(once.matches('\n').count(), text.matches('\n').count());
            prop_assert_eq!(redact(&once), once);
        }

        #[test]
        fn a_password_never_survives(password in "[a-zA-Z0-9]{8,20}") {
            for line in [format!("rootpw {password}"), format!("user --password={password} --name=x")] {
                prop_assert!(!redact(&line).contains(&password));
            }
        }
    }
}
