//! Words that stand for something nobody filled in.

/// The words.
const WORDS: [&str; 2] = ["TODO", "CHANGEME"];

/// The first placeholder of a text: its line, counted from 1, and the word.
/// One that is part of a longer word, or of a key's base64, is none.
pub fn find(text: &str) -> Option<(usize, &'static str)> {
    text.lines().enumerate().find_map(|(index, line)| {
        let word = WORDS.into_iter().find(|word| stands_alone(line, word))?;
        Some((index + 1, word))
    })
}

fn stands_alone(line: &str, word: &str) -> bool {
    let joined = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line.as_bytes()[..at], &line.as_bytes()[at + word.len()..]);
        !joined(before.last()) && !joined(after.first())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_with_their_line() {
        for (text, found) in [
            ("a\nb = \"TODO\"\n", Some((2, "TODO"))),
            ("rootpw CHANGEME", Some((1, "CHANGEME"))),
            ("key=CHANGEME", Some((1, "CHANGEME"))),
            ("<TODO: the address>", Some((1, "TODO"))),
            ("address: TODO/24", Some((1, "TODO"))),
            ("METODOS", None),
            ("ssh-ed25519 AAAATODOxyz", None),
            ("TODOS", None),
            ("# todo", None),
            ("", None),
        ] {
            assert_eq!(find(text), found, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_line_is_the_one_it_stands_on(before in 0_usize..20, word in 0_usize..2) {
            let text = format!("{}x: {}\n", "line\n".repeat(before), WORDS[word]);
            proptest::prop_assert_eq!(find(&text), Some((before + 1, WORDS[word])));
        }
    }
}
