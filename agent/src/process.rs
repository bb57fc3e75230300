//! The one way to run another program: no shell, the whole command line in
//! every error, and the end of what it said.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;

/// Bytes of a program's stderr that an error repeats.
const TAIL: usize = 1024;
/// Characters of a command line that an error repeats.
const SHOWN: usize = 300;
/// Where programs are looked for: what a service or an installer has in its
/// own PATH is not known.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command in a known environment.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Runs a command to its end and returns what it printed. Not for commands
/// with a secret on their command line: an error repeats it.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {}", shown(command)))?;
    checked(command, &output)
}

/// Runs a command without holding anything else up; kills it when its time
/// is over.
pub(crate) async fn run_within(command: Command, time: Duration) -> Result<String> {
    let mut running = tokio::process::Command::from(command);
    let ended = tokio::time::timeout(time, running.kill_on_drop(true).output()).await;
    let command = running.as_std();
    let output = ended
        .with_context(|| format!("{} did not end within {} s", shown(command), time.as_secs()))?
        .with_context(|| format!("starting {}", shown(command)))?;
    checked(command, &output)
}

/// As [`run_within`], with something on its standard input. The way for
/// secrets: a command line is everybody's to read.
pub(crate) async fn run_fed(mut command: Command, input: &str, time: Duration) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = shown(&command);
    let starting = || format!("starting {shown}");
    let mut running = tokio::process::Command::from(command);
    let mut child = running.kill_on_drop(true).spawn().with_context(starting)?;
    let mut stdin = child.stdin.take().context("a child has no standard input")?;
    let work = async {
        let feed = async {
            // One that ends without reading says why itself.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
        };
        tokio::join!(feed, child.wait_with_output()).1
    };
    let ended = tokio::time::timeout(time, work).await;
    let output = ended
        .with_context(|| format!("{shown} did not end within {} s", time.as_secs()))?
        .with_context(starting)?;
    checked(running.as_std(), &output)
}

/// What a command that ended printed, or why it failed.
pub(crate) fn checked(command: &Command, output: &Output) -> Result<String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr[output.stderr.len().saturating_sub(TAIL)..])
            .trim()
            .replace('\n', " / ");
        bail!("{} ended with {}: {said}", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command line, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_command_and_what_it_said() {
        let error = run(command("sh").args(["-c", "echo one >&2; echo two >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("sh -c") && text.contains("exit status: 3") && text.contains("one / two"),
            "{text}"
        );
        let missing = run(&mut command("/no/such/program")).unwrap_err();
        assert!(format!("{missing:#}").contains("/no/such/program"));
    }

    #[tokio::test]
    async fn a_command_is_ended_when_its_time_is_over() {
        let mut slow = command("sleep");
        slow.arg("60");
        let error = run_within(slow, Duration::from_millis(20)).await.unwrap_err().to_string();
        assert!(error.contains("sleep 60 did not end"), "{error}");
        let mut quick = command("echo");
        quick.arg("x");
        assert_eq!(run_within(quick, Duration::from_secs(10)).await.unwrap(), "x\n");
    }

    #[tokio::test]
    async fn input_is_fed_and_never_shown() {
        let input = "secret".repeat(100_000);
        let fed = run_fed(command("cat"), &input, Duration::from_secs(10)).await.unwrap();
        assert_eq!(fed, input);
        let error = run_fed(command("false"), &input, Duration::from_secs(10)).await.unwrap_err();
        assert!(format!("{error:#}").contains("false") && !format!("{error:#}").contains("secret"));
    }

    #[test]
    fn the_environment_is_known() {
        let text = run(&mut command("env")).unwrap();
        assert!(
            text.lines().all(|l| ["PATH=", "LC_ALL=", "PWD=", "_="].iter().any(|k| l.starts_with(k))),
            "{text}"
        );
    }
}
