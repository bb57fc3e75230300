use super::*;
use proptest::prelude::*;

pub(in crate::inspect) const RUN: &str = "0123456789abcdef";

/// A survey as the script writes it, of these entries and packages.
pub(in crate::inspect) fn stream(facts: &[String]) -> Vec<u8> {
    let mut lines = vec![format!(r#"{{"kind":"begin","format":1,"run":"{RUN}"}}"#)];
    lines.extend(facts.iter().cloned());
    lines.push(format!(r#"{{"kind":"end","run":"{RUN}","told":{}}}"#, lines.len()));
    (lines.join("\n") + "\n").into_bytes()
}

pub(in crate::inspect) fn package(name: &str) -> String {
    format!(r#"{{"kind":"package","name":"{name}","evr":"1-1.el9","arch":"x86_64"}}"#)
}

fn file(path: &str) -> String {
    format!(r#"{{"kind":"entry","path":"{path}","type":"file","mode":420,"uid":0,"gid":0,"size":1}}"#)
}

fn parse(bytes: &[u8]) -> Result<Survey, NotWhole> {
    Survey::parse(bytes, &RUN.parse().unwrap())
}

fn facts() -> Vec<String> {
    vec![file("/etc/fstab"), file("/etc/fstab.d/x"), file("/etcetera"), package("bash")]
}

#[test]
fn a_whole_survey_is_read() {
    let survey = parse(&stream(&facts())).unwrap();
    assert_eq!(survey.get("/etc/fstab").unwrap().mode, 0o644);
    assert_eq!(survey.in_dir("/etc").map(Entry::name).collect::<Vec<_>>(), ["fstab"]);
    assert_eq!(survey.packages[0].name, "bash");
}

#[test]
fn one_that_is_not_whole_is_never_a_survey() {
    let whole = stream(&facts());
    for cut in 0..whole.len() {
        assert!(parse(&whole[..cut]).is_err(), "cut at {cut}");
    }
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    for missing in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(missing);
        assert!(parse(&fewer.concat()).is_err(), "without line {missing}");
    }
    let other = Survey::parse(&whole, &"fedcba9876543210".parse().unwrap());
    assert!(matches!(other, Err(NotWhole::CutOff(_))));
    assert!(matches!(parse(&[whole.as_slice(), b"{}\n"].concat()), Err(NotWhole::CutOff(_))));
}

#[test]
fn what_could_not_be_read_inside_is_told() {
    let mut facts = facts();
    facts.push(r#"{"kind":"error","what":"/etc/x: Input/output error"}"#.to_owned());
    let error = parse(&stream(&facts)).unwrap_err();
    assert_eq!(error, NotWhole::Unread("/etc/x: Input/output error".into()));
    let mut twice = self::facts();
    twice.push(file("/etc/fstab"));
    assert!(parse(&stream(&twice)).unwrap_err().to_string().contains("twice"));
}

#[test]
fn links_lead_where_they_say() {
    assert_eq!(resolve("/etc/os-release", "../usr/lib/os-release"), "/usr/lib/os-release");
    assert_eq!(resolve("/boot/grub2/grubenv", "/x//y/./z"), "/x/y/z");
    assert_eq!(resolve("/a", "../../b"), "/b");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn a_survey_with_one_byte_changed_is_the_same_or_refused_or_says_something_else(
        at in 0_usize..400, to in any::<u8>()
    ) {
        let mut bytes = stream(&facts());
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(survey) = parse(&bytes) {
            prop_assert_eq!(survey.entries().count(), 3);
            prop_assert_eq!(survey.packages.len(), 1);
        }
    }
}
