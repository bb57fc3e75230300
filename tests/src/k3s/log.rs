//! Log lines in the shape k3s writes them without a terminal:
//! `time="2026-11-22T05:00:00Z" level=info msg="Starting k3s"`.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Sends log lines to stderr, debug lines only when asked for.
pub(crate) fn init(debug: bool) {
    let level = if debug { Level::DEBUG } else { Level::INFO };
    // Only our own lines: the HTTP and TLS libraries have nothing to say that k3s would say.
    let filter = tracing_subscriber::EnvFilter::new(format!("off,standin_k3s={level}"));
    // Set already in a test process: that one serves as well.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .event_format(Logrus)
        .try_init();
}

/// The line a program ends with when it gives up.
pub(crate) fn fatal(message: &str) {
    eprintln!("{}", line("fatal", message));
}

fn line(level: &str, message: &str) -> String {
    format!(
        "time=\"{}\" level={level} msg={message:?}",
        jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ")
    )
}

struct Logrus;

impl<S, N> FormatEvent<S, N> for Logrus
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        writeln!(to, "{}", line(level, &message.0))
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String does not fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_logrus_shape_and_quotes_what_would_break_it() {
        let line = line("info", "said \"no\"\nand left");
        assert!(line.starts_with("time=\"20"), "{line}");
        assert!(line.ends_with(r#"Z" level=info msg="said \"no\"\nand left""#), "{line}");
    }
}
